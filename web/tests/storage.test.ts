import { sha256 } from "@noble/hashes/sha2.js";
import { bytesToHex } from "@noble/hashes/utils.js";
import { describe, expect, it } from "vitest";

import { tokenIn } from "../src/connection";
import { messagesOf } from "../src/conversation";
import {
  deleteAllConversations, deleteConversation, listConversations, saveConversation, type Answer, type Conversation,
} from "../src/storage/database";
import { DamagedError, download, type Source, type Target } from "../src/storage/download";
import { exported, search } from "../src/storage/search";

class Memory implements Target {
  constructor(public bytes = new Uint8Array()) {}
  getSize = (): number => this.bytes.length;
  flush = (): void => undefined;
  truncate(size: number): void {
    this.bytes = this.bytes.slice(0, size);
  }
  read(buffer: Uint8Array, { at }: { at: number }): number {
    const part = this.bytes.subarray(at, at + buffer.length);
    buffer.set(part);
    return part.length;
  }
  write(buffer: Uint8Array, { at }: { at: number }): number {
    const grown = new Uint8Array(Math.max(this.bytes.length, at + buffer.length));
    grown.set(this.bytes);
    grown.set(buffer, at);
    this.bytes = grown;
    return buffer.length;
  }
}

const FILE = Uint8Array.from({ length: 100_000 }, (_, i) => (i * 31) % 251);
const WANTED = { bytes: FILE.length, sha256: bytesToHex(sha256(FILE)) };

/** Serves from the byte asked for; breaks off after `limit` bytes. */
function serving(file: Uint8Array, limit = Infinity, resumes = true): { source: Source; starts: number[] } {
  const starts: number[] = [];
  const source: Source = async (from) => {
    starts.push(from);
    const start = resumes ? from : 0;
    let at = start;
    const body = new ReadableStream<Uint8Array>({
      pull(controller) {
        if (at - start >= limit) controller.error(new TypeError("gone"));
        else if (at >= file.length) controller.close();
        else controller.enqueue(file.slice(at, (at += 7_777)));
      },
    });
    return { start, body };
  };
  return { source, starts };
}

describe("a download", () => {
  it("goes on where it broke off and is hashed as a whole", async () => {
    const target = new Memory();
    await expect(download(target, WANTED, serving(FILE, 30_000).source, () => undefined)).rejects.toThrow("gone");
    expect(target.bytes.length).toBeGreaterThan(0);
    const kept = target.bytes.length;
    const { source, starts } = serving(FILE);
    await download(target, WANTED, source, () => undefined);
    expect(starts).toEqual([kept]);
    expect(target.bytes).toEqual(FILE);
  });

  it("starts over where the server does not resume", async () => {
    const target = new Memory(FILE.slice(0, 5_000));
    await download(target, WANTED, serving(FILE, Infinity, false).source, () => undefined);
    expect(target.bytes).toEqual(FILE);
  });

  it("throws damaged files away, wherever the damage is", async () => {
    const wrong = FILE.slice();
    wrong[77] = wrong[77]! ^ 1;
    for (const [present, served] of [[new Uint8Array(), wrong], [wrong.slice(0, 500), FILE]] as const) {
      const target = new Memory(present.slice());
      await expect(download(target, WANTED, serving(served).source, () => undefined)).rejects.toThrow(DamagedError);
      expect(target.getSize()).toBe(0);
    }
    const longer = new Uint8Array(FILE.length + 1);
    longer.set(FILE);
    await expect(download(new Memory(), WANTED, serving(longer).source, () => undefined)).rejects.toThrow(DamagedError);
  });

  it("says when the connection ended early", async () => {
    const target = new Memory();
    await expect(download(target, WANTED, serving(FILE.slice(0, 50)).source, () => undefined)).rejects.toThrow("early");
    expect(target.getSize()).toBe(50);
  });
});

const reply = (text: string): Answer => ({
  variant: "tuned", place: "server", model: "m", thinking: "Überlegung", thinkingSeconds: 1, text,
  finish: "stop", tokens: 3, tokensPerSecond: 2,
});
const talk = (id: string, updatedAt: number, question: string, answer: string | null): Conversation => ({
  id, updatedAt, exchanges: [{ question, askedAt: updatedAt, answer: answer === null ? null : reply(answer) }],
});

describe("the history", () => {
  it("is kept newest first, and deleted one by one or whole", async () => {
    await saveConversation(talk("a", 1, "first", "x"));
    await saveConversation(talk("b", 3, "third", "x"));
    await saveConversation(talk("c", 2, "second", null));
    expect((await listConversations()).map(({ id }) => id)).toEqual(["b", "c", "a"]);
    await deleteConversation("c");
    expect((await listConversations()).map(({ id }) => id)).toEqual(["b", "a"]);
    await deleteAllConversations();
    expect(await listConversations()).toEqual([]);
  });

  it("is searched by every word, without case and accents, and exported whole", () => {
    const all = [talk("a", 1, "Heparin dose?", "Protamine"), talk("b", 2, "Anaemia", "Iron")];
    expect(search(all, "HEPARIN protamine").map(({ id }) => id)).toEqual(["a"]);
    expect(search(all, "uberlegung").length).toBe(2);
    expect(search(all, "heparin iron")).toEqual([]);
    expect(search(all, "  ").length).toBe(2);
    const copy = JSON.parse(exported(all, new Date(0))) as { conversations: unknown };
    expect(copy.conversations).toEqual(all);
  });

  it("goes to the model without thoughts and unanswered questions", () => {
    const exchanges = [...talk("a", 1, "one", "1").exchanges, ...talk("b", 1, "lost", null).exchanges, ...talk("c", 1, "two", null).exchanges];
    expect(messagesOf(exchanges)).toEqual([
      { role: "user", content: "one" }, { role: "assistant", content: "1" }, { role: "user", content: "two" },
    ]);
  });
});

describe("the token", () => {
  it("is found in links and alone", () => {
    expect(tokenIn("https://10.0.0.2:8443/#token=ab-C_9.~x")).toBe("ab-C_9.~x");
    expect(tokenIn("#token=a%2Bb")).toBe("a+b");
    expect(tokenIn("  0123456789abcdef ")).toBe("0123456789abcdef");
    expect(tokenIn("")).toBeNull();
    expect(tokenIn("what is this")).toBeNull();
  });
});

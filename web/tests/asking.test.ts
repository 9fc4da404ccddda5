import { describe, expect, it, vi } from "vitest";

import { ask } from "../src/asking";
import { AskError, type Engine, type Part } from "../src/engines/engine";

const QUESTION = { variant: "tuned", messages: [], maxTokens: 9, temperature: 0, seed: 0 } as const;

function engine(parts: (signal: AbortSignal) => AsyncGenerator<Part>): Engine {
  return { place: "server", ask: ({ signal }) => parts(signal) };
}

describe("a question on its way", () => {
  it("shows what came last even while the stream pauses", async () => {
    vi.useFakeTimers();
    let go: () => void = () => undefined;
    const paused = new Promise<void>((resolve) => (go = resolve));
    const asked = ask(
      engine(async function* () {
        for (const text of ["One", " two", " three"]) yield { kind: "answer", text };
        await paused;
        yield { kind: "done", finish: "stop", tokens: 3, tokensPerSecond: 2 };
      }),
      QUESTION,
      "m",
    );
    await vi.advanceTimersByTimeAsync(0);
    expect(asked.live.value.text).toBe("One");
    await vi.advanceTimersByTimeAsync(200);
    expect(asked.live.value.text).toBe("One two three");
    go();
    expect(await asked.answer).toMatchObject({ text: "One two three", finish: "stop", tokens: 3 });
    vi.useRealTimers();
  });

  it("times the thinking, and keeps it apart", async () => {
    let clock = 0;
    const asked = ask(
      engine(async function* () {
        yield { kind: "thinking", text: "Hm" };
        clock += 3_000;
        yield { kind: "thinking", text: "m" };
        yield { kind: "answer", text: "Yes" };
        yield { kind: "done", finish: "length", tokens: 3, tokensPerSecond: null };
      }),
      QUESTION,
      "m",
      () => clock,
    );
    expect(await asked.answer).toMatchObject({ thinking: "Hmm", thinkingSeconds: 3, text: "Yes", finish: "length" });
  });

  it("keeps what came before it failed or was stopped", async () => {
    const failing = ask(
      engine(async function* () {
        yield { kind: "answer", text: "Half" };
        throw new AskError("stopped", "engine died");
      }),
      QUESTION,
      "m",
    );
    expect(await failing.answer).toMatchObject({
      text: "Half", finish: "failed", trouble: { kind: "stopped", detail: "engine died" },
    });
    const stopped = ask(
      engine(async function* (signal) {
        yield { kind: "answer", text: "Half" };
        await new Promise((resolve) => signal.addEventListener("abort", resolve));
      }),
      QUESTION,
      "m",
    );
    await vi.waitFor(() => expect(stopped.live.value.text).toBe("Half"));
    stopped.stop();
    expect(await stopped.answer).toMatchObject({ text: "Half", finish: "cancelled" });
  });
});

/** The model on this device: llama.cpp as WebAssembly. */

import type { Wllama } from "@wllama/wllama";

import { AskError, type ChatMessage, type Engine, type Finish, type Part, type Question } from "./engine";
import { Pace } from "./pace";
import { openRuntime } from "./runtime";
import { opensThinking, ThinkingSplitter } from "./thinking";
import { fastest, isSuspect, threadCount } from "./threads";

export interface DeviceModel {
  readonly model: { readonly sha256: string; readonly blob: Blob };
  readonly adapter: { readonly sha256: string; readonly blob: Blob } | null;
  readonly chatTemplate: string | null;
  readonly context: number;
}

interface Loaded {
  readonly key: string;
  readonly wllama: Wllama;
  readonly thinksFirst: boolean;
  readonly hasAdapter: boolean;
  readonly threads: number;
  readonly msPerToken: number;
  readonly modelBytes: number;
}

interface Chunk {
  choices?: {
    delta?: { content?: string | null; reasoning_content?: string | null };
    finish_reason?: string | null;
  }[];
  timings?: { predicted_n?: number };
}

/** A trial of tokens takes no longer than this, and longer by as much for each gigabyte. */
const TRIAL_MS = 6_000;
const TRIAL_TOKENS = 4;
/** Tokens from which on an answer's pace tells something. */
const TELLING_TOKENS = 16;
/** How often threads that became slow are tried anew. */
const MOST_RETRIALS = 2;
const SMALL_CONTEXT = 1024;

export class DeviceEngine implements Engine {
  readonly place = "device";
  private loaded: Loaded | null = null;
  /** Only one thread: shared memory was refused. */
  private narrow = false;
  /** Little context: memory has run out. */
  private tight = false;
  /** The last answer came slower than its threads should write: they are to be tried anew. */
  private doubtful = false;
  private retrials = 0;
  private turn: Promise<unknown> = Promise.resolve();

  /** @param choose The files that answer; asked anew for each question. */
  constructor(private readonly choose: () => Promise<DeviceModel | null>) {}

  get threads(): number | null {
    return this.loaded?.threads ?? null;
  }

  async *ask(question: Question): AsyncGenerator<Part> {
    const before = this.turn;
    let release: () => void = () => undefined;
    this.turn = new Promise<void>((resolve) => (release = resolve));
    try {
      await before;
      if (question.signal.aborted) return;
      yield { kind: "preparing", what: "model" };
      const loaded = await this.ready();
      if (question.signal.aborted) return;
      yield { kind: "preparing", what: "prompt" };
      yield* this.generate(loaded, question);
    } catch (error) {
      if (question.signal.aborted) return;
      throw await this.told(error);
    } finally {
      release();
    }
  }

  /** Frees the memory that the model takes. */
  async unload(): Promise<void> {
    const loaded = this.loaded;
    this.loaded = null;
    await loaded?.wllama.exit().catch(() => undefined);
  }

  private async ready(): Promise<Loaded> {
    const chosen = await this.choose();
    if (!chosen) throw new AskError("not-installed");
    const key = [chosen.model.sha256, chosen.adapter?.sha256, chosen.chatTemplate, this.narrow, this.tight].join();
    if (this.loaded?.key === key && !this.doubtful) return this.loaded;
    await this.unload();
    this.doubtful = false;
    const threads = this.narrow ? 1 : threadCount(crossOriginIsolated, navigator.hardwareConcurrency || 1);
    try {
      const attempt = (count: number): Promise<Loaded> => load(chosen, key, count, threads > 1, this.tight);
      this.loaded = await fastest(attempt, exit, threads, chosen.model.blob.size);
    } catch (error) {
      // Some phones refuse shared memory of this size: once more with one thread and less context.
      if (this.narrow || error instanceof AskError) throw error;
      this.narrow = this.tight = true;
      return this.ready();
    }
    return this.loaded;
  }

  private async *generate(loaded: Loaded, question: Question): AsyncGenerator<Part> {
    const options = {
      messages: question.messages.map(plain),
      max_tokens: question.maxTokens,
      temperature: question.temperature,
      seed: question.seed,
      stream: true as const,
      timings_per_token: true,
      abortSignal: question.signal,
      ...(loaded.hasAdapter && { lora: [{ id: 0, scale: question.variant === "tuned" ? 1 : 0 }] }),
    };
    const pace = new Pace();
    const splitter = new ThinkingSplitter(loaded.thinksFirst);
    let finish: Finish = "stop";
    let tokens: number | null = null;
    for await (const chunk of (await loaded.wllama.createChatCompletion(options)) as AsyncIterable<Chunk>) {
      const choice = chunk.choices?.[0];
      const { content, reasoning_content: thinking } = choice?.delta ?? {};
      if (content || thinking) pace.tick();
      if (thinking) yield { kind: "thinking", text: thinking };
      if (content) yield* splitter.push(content);
      if (choice?.finish_reason === "length") finish = "length";
      tokens = chunk.timings?.predicted_n ?? tokens;
    }
    yield* splitter.finish();
    const result = pace.result(tokens);
    this.note(loaded, result);
    yield { kind: "done", finish, ...result };
  }

  /** Cores that were free when the threads were tried may be busy by now. */
  private note(loaded: Loaded, { tokens, tokensPerSecond }: ReturnType<Pace["result"]>): void {
    if (loaded.threads === 1 || tokensPerSecond === null || tokens < TELLING_TOKENS) return;
    if (this.retrials >= MOST_RETRIALS || !isSuspect(1000 / tokensPerSecond, loaded.modelBytes)) return;
    this.retrials += 1;
    this.doubtful = true;
  }

  /** A crashed engine is put away, so that the next question starts a new one. */
  private async told(error: unknown): Promise<AskError> {
    if (error instanceof AskError) return error;
    const text = error instanceof Error ? error.message : String(error);
    if (/context|kv cache/i.test(text)) return new AskError("too-long", text);
    await this.unload();
    if (/memory|allocat|oom/i.test(text)) {
      this.narrow = this.tight = true;
      return new AskError("memory", text);
    }
    return new AskError(/webassembly|simd/i.test(text) ? "unsupported" : "stopped", text);
  }
}

const SILENT = { debug() {}, log() {}, warn() {}, error() {} };

const exit = ({ wllama }: Loaded): Promise<void> => wllama.exit().catch(() => undefined);

/** Milliseconds that a token takes, after a first one that compiles; infinite beyond `limit`. */
async function trial(wllama: Wllama, limit: number): Promise<number> {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const late = new Promise<number>((resolve) => (timer = setTimeout(() => resolve(Infinity), limit)));
  const write = (tokens: number): Promise<unknown> =>
    wllama.createCompletion({ prompt: "a", max_tokens: tokens, cache_prompt: false } as never);
  const timed = async (): Promise<number> => {
    await write(1);
    const begun = performance.now();
    await write(TRIAL_TOKENS);
    return (performance.now() - begun) / TRIAL_TOKENS;
  };
  const pace = timed();
  pace.catch(() => undefined);
  return Promise.race([pace, late]).finally(() => clearTimeout(timer));
}

async function load(
  chosen: DeviceModel,
  key: string,
  threads: number,
  tried: boolean,
  tight: boolean,
): Promise<Loaded> {
  const [{ Wllama }, runtime] = await Promise.all([import("@wllama/wllama"), openRuntime()]);
  const wllama = new Wllama(
    { default: runtime.wasm || "/" },
    { allowOffline: true, suppressNativeLog: true, logger: SILENT },
  );
  wllama.setCompat(runtime.compat.wasm ? { ...runtime.compat } : null);
  const blobs = [chosen.model.blob, ...(chosen.adapter ? [chosen.adapter.blob] : [])];
  const context = tight ? Math.min(SMALL_CONTEXT, chosen.context) : chosen.context;
  const modelBytes = chosen.model.blob.size;
  let msPerToken = 0;
  try {
    await wllama.loadModel(blobs, {
      n_ctx: context,
      n_threads: threads,
      n_parallel: 1,
      n_gpu_layers: 0,
      jinja: true,
      // Text as it is written: what is thinking is told apart by `ThinkingSplitter`.
      reasoning_format: "none",
      skip_chat_parsing: true,
      ...(chosen.chatTemplate && { chat_template: chosen.chatTemplate }),
      ...(chosen.adapter && { lora_adapters: [{ path: "models/model-00002-of-00002.gguf", scale: 1 }] }),
    });
    if (tried) msPerToken = await trial(wllama, TRIAL_MS * (1 + modelBytes / 1e9));
  } catch (error) {
    await wllama.exit().catch(() => undefined);
    throw error;
  } finally {
    for (const url of [runtime.wasm, runtime.compat.wasm]) if (url) URL.revokeObjectURL(url);
  }
  const template = chosen.chatTemplate ?? wllama.getChatTemplate();
  const [hasAdapter, thinksFirst] = [chosen.adapter !== null, opensThinking(template)];
  return { key, wllama, threads, msPerToken, modelBytes, hasAdapter, thinksFirst };
}

/**
 * What a user writes is never read as control tokens: llama.cpp would, so such text is broken by a
 * zero-width space.
 */
export function plain(message: ChatMessage): ChatMessage {
  const content = message.content.replace(/<(?=[|｜]|\/?(?:s|think|unk|pad|bos|eos)>)|\[(?=\/?INST\])/gi, "$&\u200b");
  return { ...message, content };
}

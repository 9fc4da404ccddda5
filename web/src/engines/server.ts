/** The model on the server, through its OpenAI-compatible stream. */

import { call, readProblem } from "./api";
import { AskError, type Engine, type Finish, type Part, type Question } from "./engine";
import { Pace } from "./pace";
import { readEvents } from "./sse";
import { ThinkingSplitter } from "./thinking";

const MOST_RETRIES = 5;
const LONGEST_WAIT_S = 30;

interface Chunk {
  choices?: {
    delta?: { content?: string | null; reasoning_content?: string | null };
    finish_reason?: string | null;
  }[];
  usage?: { completion_tokens?: number } | null;
  error?: unknown;
}

export class ServerEngine implements Engine {
  readonly place = "server";

  constructor(
    private readonly token: () => string | null,
    private readonly pause: (ms: number, signal: AbortSignal) => Promise<void> = wait,
  ) {}

  async *ask(question: Question): AsyncGenerator<Part> {
    try {
      for (let attempt = 0; ; attempt++) {
        try {
          const response = await this.open(question);
          yield* this.read(response);
          return;
        } catch (error) {
          const wait = error instanceof AskError && error.trouble === "busy" && error.retryAfter;
          if (!wait || attempt >= MOST_RETRIES) throw error;
          yield { kind: "waiting", ahead: null };
          await this.pause(Math.min(wait, LONGEST_WAIT_S) * 1000, question.signal);
        }
      }
    } catch (error) {
      if (question.signal.aborted) return;
      throw error instanceof AskError ? error : new AskError("stopped", String(error));
    }
  }

  private async open(question: Question): Promise<Response> {
    return call("/v1/chat/completions", this.token(), {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify({
        model: question.variant,
        messages: question.messages,
        max_tokens: question.maxTokens,
        temperature: question.temperature,
        seed: question.seed,
        stream: true,
        stream_options: { include_usage: true },
      }),
      signal: question.signal,
    });
  }

  private async *read(response: Response): AsyncGenerator<Part> {
    if (!response.body) throw new AskError("stopped");
    const pace = new Pace();
    const splitter = new ThinkingSplitter(false);
    let finish: Finish = "stop";
    let tokens: number | null = null;
    let complete = false;
    for await (const event of readEvents(response.body)) {
      if (event.kind === "comment") {
        const ahead = /^waiting (\d+)$/.exec(event.text);
        if (ahead) yield { kind: "waiting", ahead: Number(ahead[1]) };
        continue;
      }
      if (event.data === "[DONE]") {
        complete = true;
        break;
      }
      const chunk = parse(event.data);
      const choice = chunk.choices?.[0];
      const { content, reasoning_content: thinking } = choice?.delta ?? {};
      if (content || thinking) pace.tick();
      if (thinking) yield { kind: "thinking", text: thinking };
      if (content) yield* splitter.push(content);
      if (choice?.finish_reason === "length") finish = "length";
      tokens = chunk.usage?.completion_tokens ?? tokens;
    }
    yield* splitter.finish();
    if (!complete) throw new AskError("stopped");
    yield { kind: "done", finish, ...pace.result(tokens) };
  }
}

function parse(data: string): Chunk {
  let chunk: Chunk;
  try {
    chunk = JSON.parse(data) as Chunk;
  } catch {
    throw new AskError("stopped", data.slice(0, 200));
  }
  if (chunk.error) {
    const { message, code } = readProblem(data);
    throw new AskError(code === "context_length_exceeded" ? "too-long" : "stopped", message);
  }
  return chunk;
}

function wait(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve, reject) => {
    const stop = (): void => {
      clearTimeout(timer);
      reject(signal.reason);
    };
    const timer = setTimeout(() => {
      signal.removeEventListener("abort", stop);
      resolve();
    }, ms);
    signal.addEventListener("abort", stop, { once: true });
  });
}

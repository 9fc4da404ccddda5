/** What answers a question: the server, or the model on this device. */

export type Variant = "base" | "tuned";
export type Place = "server" | "device";

export interface ChatMessage {
  readonly role: "system" | "user" | "assistant";
  readonly content: string;
}

export interface Question {
  readonly variant: Variant;
  readonly messages: readonly ChatMessage[];
  readonly maxTokens: number;
  readonly temperature: number;
  readonly seed: number;
  readonly signal: AbortSignal;
}

export type Finish = "stop" | "length";

export type Part =
  | { readonly kind: "waiting"; readonly ahead: number | null }
  | { readonly kind: "preparing"; readonly what: "engine" | "model" | "prompt" }
  | { readonly kind: "thinking"; readonly text: string }
  | { readonly kind: "answer"; readonly text: string }
  | {
      readonly kind: "done";
      readonly finish: Finish;
      /** Tokens written, thinking included. */
      readonly tokens: number;
      /** Between first and last token; null where too few were written to tell. */
      readonly tokensPerSecond: number | null;
    };

export interface Engine {
  readonly place: Place;
  /** The output as it is written. Throws an `AskError`; ends quietly when `signal` aborts. */
  ask(question: Question): AsyncIterable<Part>;
}

export type Trouble =
  | "unreachable"
  | "token"
  | "busy"
  | "too-long"
  | "stopped"
  | "refused"
  | "not-installed"
  | "memory"
  | "unsupported";

/** A question that was not answered, and why; `detail` is the server's or llama.cpp's own text. */
export class AskError extends Error {
  constructor(
    readonly trouble: Trouble,
    readonly detail: string = "",
    readonly retryAfter: number | null = null,
  ) {
    super(detail || trouble);
    this.name = "AskError";
  }
}

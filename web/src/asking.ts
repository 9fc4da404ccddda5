/** One question on its way: the output as it grows, and the answer that is kept. */

import { signal, type Signal } from "@preact/signals";

import { AskError, type Engine, type Part, type Question } from "./engines/engine";
import type { Answer } from "./storage/database";

export type Stage =
  | { readonly kind: "connecting" }
  | { readonly kind: "waiting"; readonly ahead: number | null }
  | { readonly kind: "preparing"; readonly what: "engine" | "model" | "prompt" }
  | { readonly kind: "thinking" }
  | { readonly kind: "answering" };

export interface Live {
  readonly stage: Stage;
  readonly thinking: string;
  readonly thinkingSeconds: number | null;
  readonly text: string;
}

/** Between two drawings of a growing text: the device's own cores may be writing it. */
const DRAW_MS = 120;
const EMPTY: Live = { stage: { kind: "connecting" }, thinking: "", thinkingSeconds: null, text: "" };

export interface Asked {
  readonly live: Signal<Live>;
  readonly answer: Promise<Answer>;
  stop(): void;
}

/** Asks; never rejects: what went wrong is part of the answer. */
export function ask(
  engine: Engine,
  question: Omit<Question, "signal">,
  model: string,
  now: () => number = () => performance.now(),
): Asked {
  const control = new AbortController();
  const live = signal<Live>(EMPTY);
  const answer = follow(engine.ask({ ...question, signal: control.signal }), live, now).then(
    (end): Answer => ({
      variant: question.variant,
      place: engine.place,
      model,
      thinking: live.value.thinking,
      thinkingSeconds: live.value.thinkingSeconds,
      text: live.value.text.trimEnd(),
      ...end,
      ...(control.signal.aborted && { finish: "cancelled" as const }),
    }),
  );
  return { live, answer, stop: () => control.abort(new DOMException("stopped", "AbortError")) };
}

type End = Pick<Answer, "finish" | "tokens" | "tokensPerSecond" | "trouble">;

async function follow(parts: AsyncIterable<Part>, live: Signal<Live>, now: () => number): Promise<End> {
  let state = EMPTY;
  let drawn = -Infinity;
  let thoughtFrom: number | null = null;
  let end: End = { finish: "cancelled", tokens: null, tokensPerSecond: null };
  let later: ReturnType<typeof setTimeout> | undefined;
  const draw = (): void => {
    clearTimeout(later);
    later = undefined;
    drawn = now();
    live.value = state;
  };
  try {
    for await (const part of parts) {
      if (part.kind === "done") {
        const { finish, tokens, tokensPerSecond } = part;
        end = { finish, tokens, tokensPerSecond };
        continue;
      }
      if (part.kind === "thinking") thoughtFrom ??= now();
      const before = state.stage.kind;
      state = grown(state, part, thoughtFrom === null ? null : (now() - thoughtFrom) / 1000);
      if (state.stage.kind !== before || now() - drawn >= DRAW_MS) draw();
      // A stream may pause: what came last is drawn even if nothing follows.
      else later ??= setTimeout(draw, DRAW_MS);
    }
  } catch (error) {
    const { trouble: kind, detail } = error instanceof AskError ? error : new AskError("stopped", String(error));
    end = { finish: "failed", tokens: null, tokensPerSecond: null, trouble: { kind, detail } };
  }
  draw();
  return end;
}

function grown(state: Live, part: Exclude<Part, { kind: "done" }>, seconds: number | null): Live {
  switch (part.kind) {
    case "waiting":
      return { ...state, stage: part };
    case "preparing":
      return { ...state, stage: part };
    case "thinking":
      return { ...state, stage: { kind: "thinking" }, thinking: state.thinking + part.text, thinkingSeconds: seconds };
    case "answer":
      return { ...state, stage: { kind: "answering" }, text: state.text + part.text };
  }
}

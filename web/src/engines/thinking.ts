/** Tells thinking from answer where a model marks it in its text: `<think>…</think>`. */

export interface Piece {
  readonly kind: "thinking" | "answer";
  readonly text: string;
}

const OPEN = "<think>";
const CLOSE = "</think>";

/**
 * Splits text that arrives in pieces of any size. A marker may be spread over several pieces, so
 * an ending that could become one is held back.
 *
 * A second `<think>` counts too; a `</think>` outside of thinking is text.
 */
export class ThinkingSplitter {
  private held = "";
  private thinking: boolean;
  private fresh = true;

  /** @param thinksFirst Whether the prompt has already opened the thinking. */
  constructor(thinksFirst: boolean) {
    this.thinking = thinksFirst;
  }

  push(text: string): Piece[] {
    this.held += text;
    const pieces: Piece[] = [];
    for (;;) {
      const marker = this.thinking ? CLOSE : OPEN;
      const at = this.held.indexOf(marker);
      if (at < 0) break;
      this.give(pieces, this.held.slice(0, at));
      this.held = this.held.slice(at + marker.length);
      this.thinking = !this.thinking;
      this.fresh = true;
    }
    const keep = overlap(this.held, this.thinking ? CLOSE : OPEN);
    const certain = this.held.slice(0, this.held.length - keep);
    this.held = this.held.slice(this.held.length - keep);
    this.give(pieces, certain);
    return pieces;
  }

  /** What was held back, once nothing follows. */
  finish(): Piece[] {
    const pieces: Piece[] = [];
    this.give(pieces, this.held);
    this.held = "";
    return pieces;
  }

  private give(pieces: Piece[], text: string): void {
    const shown = this.fresh ? text.trimStart() : text;
    if (!shown) return;
    this.fresh = false;
    pieces.push({ kind: this.thinking ? "thinking" : "answer", text: shown });
  }
}

/** Length of the longest ending of `text` that `marker` begins with. */
function overlap(text: string, marker: string): number {
  for (let size = Math.min(marker.length - 1, text.length); size > 0; size--) {
    if (text.endsWith(marker.slice(0, size))) return size;
  }
  return 0;
}

/** Whether a chat template (Jinja) opens the thinking itself, at the end of the prompt. */
export function opensThinking(chatTemplate: string | null): boolean {
  if (!chatTemplate) return false;
  const ending = chatTemplate.slice(chatTemplate.lastIndexOf("add_generation_prompt"));
  return ending.includes(OPEN) && !ending.includes(CLOSE);
}

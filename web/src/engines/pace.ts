/** Tokens per second between the first and the last token of an output. */
export class Pace {
  private first: number | null = null;
  private last = 0;
  private pieces = 0;

  constructor(private readonly now: () => number = () => performance.now()) {}

  /** One more piece of text has come. */
  tick(): void {
    this.last = this.now();
    this.first ??= this.last;
    this.pieces += 1;
  }

  /** @param tokens As the engine counted them; pieces stand in where it did not. */
  result(tokens: number | null): { tokens: number; tokensPerSecond: number | null } {
    const count = tokens ?? this.pieces;
    const seconds = this.first === null ? 0 : (this.last - this.first) / 1000;
    return { tokens: count, tokensPerSecond: count > 1 && seconds > 0 ? (count - 1) / seconds : null };
  }
}

/** Server-sent events out of a response's body. */

export type SseEvent =
  | { readonly kind: "data"; readonly data: string }
  | { readonly kind: "comment"; readonly text: string };

/** Events as they arrive, whatever the sizes of the network's pieces. */
export async function* readEvents(body: ReadableStream<Uint8Array>): AsyncGenerator<SseEvent> {
  const reader = body.getReader();
  const decoder = new TextDecoder();
  const lines = new LineBuffer();
  let data: string[] = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      const text = done ? decoder.decode() : decoder.decode(value, { stream: true });
      for (const line of lines.push(text, done)) {
        if (line === "") {
          if (data.length) yield { kind: "data", data: data.join("\n") };
          data = [];
        } else if (line.startsWith(":")) {
          yield { kind: "comment", text: line.slice(1).trim() };
        } else if (line.startsWith("data:")) {
          data.push(line.slice(5).replace(/^ /, ""));
        }
      }
      if (done) return;
    }
  } finally {
    await reader.cancel().catch(() => undefined);
  }
}

/** Cuts text into lines; ends are LF, CR or CRLF, and a CR at the end may be half of a CRLF. */
class LineBuffer {
  private rest = "";

  push(text: string, last: boolean): string[] {
    let all = this.rest + text;
    let pending = "";
    if (!last && all.endsWith("\r")) {
      pending = "\r";
      all = all.slice(0, -1);
    }
    const lines = all.split(/\r\n|\r|\n/);
    this.rest = (lines.pop() ?? "") + pending;
    return lines;
  }
}

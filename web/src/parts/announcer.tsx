/** Tells screen readers what is written, sentence by sentence, not token by token. */

import { useEffect, useState } from "preact/hooks";
import type { VNode } from "preact";

/** Index behind the last whole sentence of `text`. */
export function sentenceEnd(text: string): number {
  let end = 0;
  for (const match of text.matchAll(/[.!?…]["')\]]*(?=\s)|\n(?=\n|[-*#\d])/g)) end = match.index + match[0].length;
  return end;
}

/** Reads `text` out as it grows; the rest of it once it is `complete`. */
export function Announcer({ text, complete, note }: { text: string; complete: boolean; note: string }): VNode {
  const [read, setRead] = useState(0);
  const [said, setSaid] = useState("");
  useEffect(() => {
    if (text.length < read) {
      setRead(0);
      return;
    }
    const end = complete ? text.length : sentenceEnd(text);
    if (end <= read) return;
    setSaid(text.slice(read, end).replace(/[*#`_|]/g, "").trim());
    setRead(end);
  }, [text, complete, read]);
  return (
    <div role="status" class="unseen">
      {note ? `${note} ` : ""}
      {said}
    </div>
  );
}

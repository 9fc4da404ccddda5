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
  // What was there already when it appeared is read by whoever goes there.
  const [read, setRead] = useState(complete ? text.length : 0);
  const [said, setSaid] = useState("");
  const [closed, setClosed] = useState(complete);
  useEffect(() => {
    const end = complete ? text.length : sentenceEnd(text);
    if (text.length < read) {
      setRead(0);
      setClosed(false);
    } else if (end > read) {
      setSaid(text.slice(read, end).replace(/[*#`_|]/g, "").trim());
      setRead(end);
      setClosed(complete);
    } else if (complete && !closed) {
      setSaid("");
      setClosed(true);
    }
  }, [text, complete, read, closed]);
  return (
    <div role="status" class="unseen">
      {(complete ? [said, closed ? note : ""] : [note, said]).filter(Boolean).join(" ")}
    </div>
  );
}

/** A model's text, as it was written until the code that formats it is here. */

import { signal } from "@preact/signals";
import type { VNode } from "preact";

import { unturned } from "./bidi";
import type { Markdown } from "./markdown";

const formatter = signal<{ readonly Formatted: typeof Markdown } | null>(null);
let fetching: Promise<void> | null = null;

/** Fetches the code that formats; without it texts are shown as they were written. */
export function fetchMarkdown(): Promise<void> {
  return (fetching ??= import("./markdown").then(
    (module) => void (formatter.value = { Formatted: module.Markdown }),
    () => void (fetching = null),
  ));
}

export function AnswerText({ text }: { text: string }): VNode {
  if (formatter.value) {
    const { Formatted } = formatter.value;
    return <Formatted text={text} />;
  }
  void fetchMarkdown();
  return (
    <div class="markdown raw">
      <p class="plain">{unturned(text)}</p>
    </div>
  );
}

/** Finding and exporting conversations. */

import type { Conversation } from "./database";

/** Those that hold every word, in question, answer or thinking; case and accents do not matter. */
export function search(all: readonly Conversation[], query: string): Conversation[] {
  const words = plain(query).split(/\s+/).filter(Boolean);
  return all.filter((conversation) => {
    const text = plain(
      conversation.exchanges
        .map(({ question, answer }) => `${question}\n${answer?.text ?? ""}\n${answer?.thinking ?? ""}`)
        .join("\n"),
    );
    return words.every((word) => text.includes(word));
  });
}

function plain(text: string): string {
  return text.normalize("NFD").replace(/\p{M}/gu, "").toLowerCase();
}

/** Everything as one JSON text that names its form. */
export function exported(all: readonly Conversation[], now: Date): string {
  const form = { format: "medimind-conversations", version: 1, exported_at: now.toISOString() };
  return JSON.stringify({ ...form, conversations: all }, null, 2);
}

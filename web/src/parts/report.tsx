/** The before/after report lies on the server; a ticket opens it in a tab of its own. */

import { signal } from "@preact/signals";
import type { VNode } from "preact";

import { call } from "../engines/api";
import { AskError } from "../engines/engine";
import { token } from "../state";
import { text as t } from "../text";

const trouble = signal("");

export async function openReport(): Promise<void> {
  // Opened at once, by the tap itself: a later opening would be blocked.
  const tab = globalThis.open("", "_blank");
  try {
    const response = await call("/api/report/ticket", token.value, { method: "POST" });
    const { url } = (await response.json()) as { url: string };
    const address = new URL(url, location.origin);
    if (address.origin !== location.origin) throw new AskError("refused");
    trouble.value = "";
    if (tab) tab.location.href = address.href;
    else location.href = address.href;
  } catch (error) {
    tab?.close();
    trouble.value = error instanceof AskError ? t.trouble[error.trouble] : t.about.reportGone;
  }
}

export function ReportButton({ label }: { label: string }): VNode {
  return (
    <>
      <button type="button" class="soft" onClick={() => void openReport()}>
        {label}
      </button>
      <span role="status">{trouble.value}</span>
    </>
  );
}

/** The forecast on the screen. It lives in this page's memory only: nothing of a patient is kept. */

import { batch, signal } from "@preact/signals";

import { AskError, type Trouble } from "../engines/engine";
import { about, token } from "../state";
import { fetchExample, fetchForecast, type ForecastAnswer } from "./answer";

export interface ForecastTrouble {
  readonly kind: Trouble | "empty" | "too-big" | "unreadable";
  readonly detail: string;
}

export const answer = signal<ForecastAnswer | null>(null);
/** Index of the patient that is shown. */
export const shown = signal(0);
/** What the records were called. */
export const source = signal("");
export const pasted = signal("");
export const trouble = signal<ForecastTrouble | null>(null);
export const running = signal<AbortController | null>(null);

/** Forecasts these records; what was on the screen stays until there is something newer. */
export async function forecast(name: string, records: () => Promise<string>): Promise<void> {
  running.value?.abort();
  const control = new AbortController();
  batch(() => {
    running.value = control;
    trouble.value = null;
  });
  try {
    const text = checked(await records());
    const found = await fetchForecast(text, token.value, control.signal);
    if (control.signal.aborted) return;
    batch(() => {
      answer.value = found;
      shown.value = 0;
      source.value = name;
      pasted.value = "";
    });
  } catch (error) {
    if (control.signal.aborted) return;
    trouble.value = toldAs(error);
  } finally {
    if (running.value === control) running.value = null;
  }
}

export const forecastExample = (name: string): Promise<void> => forecast(name, () => fetchExample(token.value));

export function cancel(): void {
  running.value?.abort();
  running.value = null;
}

export function clear(): void {
  batch(() => {
    answer.value = null;
    trouble.value = null;
    source.value = "";
  });
}

class RecordsError extends Error {
  constructor(readonly kind: "empty" | "too-big" | "unreadable") {
    super(kind);
  }
}

function checked(records: string): string {
  if (!records.trim()) throw new RecordsError("empty");
  if (records.includes("\u0000")) throw new RecordsError("unreadable");
  const most = about.value?.limits.max_forecast_bytes;
  if (most && new Blob([records]).size > most) throw new RecordsError("too-big");
  return records;
}

function toldAs(error: unknown): ForecastTrouble {
  if (error instanceof RecordsError) return { kind: error.kind, detail: "" };
  if (error instanceof AskError) return { kind: error.trouble, detail: error.detail };
  return { kind: "unreadable", detail: "" };
}

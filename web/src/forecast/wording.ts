/** Numbers and times as clinicians write them; units come written so. */

import { text as t } from "../text";
import type { Course, Interval } from "./answer";

/** `eGFR >= 60` with the signs of print. */
export function printed(text: string): string {
  return text.replaceAll(">=", "≥").replaceAll("<=", "≤").replace(/(?<=\d) %/g, "\u00a0%");
}

/** Digits after the point that a course's values are worth, by their size. */
export function decimals(course: Pick<Course, "history" | "forecasts">): number {
  const values = [...course.history, ...course.forecasts].map(({ value }) => Math.abs(value ?? 0)).toSorted((a, b) => a - b);
  const middle = values[Math.floor(values.length / 2)] ?? 0;
  return middle >= 20 ? 0 : middle >= 2 ? 1 : 2;
}

export const number = (value: number | null, digits: number): string => (value === null ? "–" : value.toFixed(digits));

export function interval([low, high]: Interval, digits: number): string {
  return low === null || high === null ? "–" : t.forecast.range(number(low, digits), number(high, digits));
}

/** The same in a table's cell. */
export function narrowInterval([low, high]: Interval, digits: number): string {
  if (low === null || high === null) return "–";
  return low < 0 ? interval([low, high], digits) : `${number(low, digits)}–${number(high, digits)}`;
}

export function percent(value: number | null): string {
  if (value === null) return "–";
  if (value < 0.1) return "< 0.1\u00a0%";
  if (value > 99.9) return "> 99.9\u00a0%";
  return `${value < 10 || value >= 99 ? value.toFixed(1) : Math.round(value)}\u00a0%`;
}

const YEAR = 365.25;
const MONTH = YEAR / 12;

/** Days as months or years where that is what they are. */
export function duration(days: number): string {
  for (const [length, say] of [[YEAR, t.forecast.years], [MONTH, t.forecast.months]] as const) {
    const count = Math.round(days / length);
    if (count > 0 && Math.abs(count * length - days) <= Math.max(1.5, 0.006 * days)) return say(count);
  }
  return t.forecast.days(Math.round(days));
}

/** About how long ago, in the unit that one would say. */
export function since(days: number): string {
  if (days < 60) return t.forecast.days(Math.round(days));
  if (days < 2 * YEAR) return t.forecast.months(Math.round(days / MONTH));
  return t.forecast.years(Math.round((days / YEAR) * 10) / 10);
}

/** The day that so many days after the first one is; null where the records have no dates. */
export function day(firstDay: string | null, days: number): string | null {
  const first = firstDay === null ? NaN : Date.parse(`${firstDay}T00:00:00Z`);
  if (!Number.isFinite(first)) return null;
  const at = new Date(first + Math.round(days) * 86_400_000);
  return Number.isNaN(at.getTime()) ? null : at.toLocaleDateString(undefined, { dateStyle: "medium", timeZone: "UTC" });
}

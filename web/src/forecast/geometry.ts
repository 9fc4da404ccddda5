/** Where everything of a fan chart lies, in pixels; times are days from the last visit. */

import type { Course, Level, Line } from "./answer";

export const LEVELS: readonly Level[] = ["90", "80", "50"];
const YEAR = 365.25;
/** History beyond so many times the way ahead is left to the table. */
const LONGEST_PAST = 2.5;
/** A line so far outside of the values, in parts of their range, is told, not drawn. */
const REACH = 0.3;
const LABEL = { width: 104, height: 15, gap: 5 };

export interface Stop {
  readonly kind: "visit" | "ahead";
  readonly index: number;
  readonly x: number;
  readonly y: number;
}

export interface Tick {
  readonly at: number;
  readonly value: number;
}

export interface Geometry {
  readonly left: number;
  readonly right: number;
  readonly top: number;
  readonly bottom: number;
  readonly today: number;
  readonly bands: readonly { readonly level: Level; readonly path: string }[];
  readonly middle: string;
  readonly measured: string;
  readonly similar: string;
  readonly stops: readonly Stop[];
  readonly lines: readonly { readonly line: Line; readonly y: number; readonly label: Label }[];
  readonly unseenLines: readonly Line[];
  readonly xTicks: readonly Tick[];
  readonly yTicks: readonly Tick[];
  readonly perYear: boolean;
}

export interface Label {
  readonly x: number;
  readonly y: number;
  readonly anchor: "start" | "end";
}

interface Spot {
  readonly time: number;
  readonly value: number;
}

export function geometry(course: Course, lastVisit: number, width: number, height: number): Geometry {
  const visits = course.history.map(({ time_days, value }) => ({ time: time_days - lastVisit, value }));
  const ahead = course.forecasts.flatMap(({ horizon_days, value, intervals }) =>
    value === null ? [] : [{ time: horizon_days, value, intervals }],
  );
  const end = Math.max(1, ...ahead.map(({ time }) => time));
  const start = Math.max(-LONGEST_PAST * end, Math.min(0, ...visits.map(({ time }) => time)));
  const seen = visits.filter(({ time }) => time >= start);
  const similar = (course.neighbours?.course ?? []).flatMap(({ horizon_days, quartiles }) =>
    typeof quartiles[1] !== "number" || horizon_days > end ? [] : [{ time: horizon_days, value: quartiles[1] }],
  );
  const values = [...seen, ...similar].map(({ value }) => value);
  for (const { value, intervals } of ahead) values.push(value, ...intervals[90].filter((one) => one !== null));
  const { low, high, shown } = extent(values, course.lines);
  const yValues = ticks(low, high, Math.max(3, Math.floor(height / 44)));
  const [left, right, top, bottom] = [10 + 8 * Math.max(...yValues.map((value) => mark(value).length)), width - 12, 14, height - 30];
  const x = (time: number): number => left + ((time - start) / (end - start)) * (right - left);
  const y = (value: number): number => bottom - ((value - low) / (high - low || 1)) * (bottom - top);
  const draw = (spots: readonly Spot[]): string => path(spots.map(({ time, value }) => [x(time), y(value)]));
  const last = seen.at(-1);
  const anchor = last ? [last] : [];
  const band = (level: Level): string => {
    const edge = (side: 0 | 1): Spot[] => ahead.map(({ time, value, intervals }) => ({ time, value: intervals[level][side] ?? value }));
    return `${draw([...anchor, ...edge(1), ...edge(0).toReversed()])}Z`;
  };
  const perYear = end - start > 1.5 * YEAR;
  const unit = perYear ? YEAR : YEAR / 12;
  const first = course.history.length - seen.length;
  return {
    left, right, top, bottom, perYear,
    today: x(0),
    bands: ahead.length ? LEVELS.map((level) => ({ level, path: band(level) })) : [],
    middle: draw([...anchor, ...ahead]),
    measured: draw(seen),
    similar: similar.length > 1 ? draw(similar) : "",
    stops: [
      ...seen.map(({ time, value }, i): Stop => ({ kind: "visit", index: first + i, x: x(time), y: y(value) })),
      ...ahead.map(({ time, value }): Stop => ({
        kind: "ahead",
        index: course.forecasts.findIndex(({ horizon_days }) => horizon_days === time),
        x: x(time),
        y: y(value),
      })),
    ],
    lines: labelled(
      shown.map((line) => ({ line, y: y(line.value) })),
      [...seen, ...anchor, ...ahead].map((spot) => [x(spot.time), y(spot.value)]),
      [left + 4, right - 2],
    ),
    unseenLines: course.lines.filter((line) => !shown.includes(line)),
    xTicks: ticks(start / unit, end / unit, Math.max(3, Math.floor(width / 48)), true).map((value) => ({ value, at: x(value * unit) })),
    yTicks: yValues.map((value) => ({ value, at: y(value) })),
  };
}

/** The values' range with the lines near it, and a little air. */
function extent(values: readonly number[], lines: readonly Line[]): { low: number; high: number; shown: Line[] } {
  const [least, most] = [Math.min(...values), Math.max(...values)];
  const reach = REACH * (most - least || Math.abs(most) || 1);
  const shown = lines.filter(({ value }) => value > least - reach && value < most + reach);
  const low = Math.min(least, ...shown.map(({ value }) => value));
  const high = Math.max(most, ...shown.map(({ value }) => value));
  const air = 0.06 * (high - low || Math.abs(high) || 1);
  return { low: low >= 0 ? Math.max(0, low - air) : low - air, high: high + air, shown };
}

/** Round numbers within a range, at most about so many. */
export function ticks(low: number, high: number, most: number, whole = false): number[] {
  const rough = (high - low) / most || 1;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough && (!whole || size >= 1)) ?? (whole ? Math.max(1, Math.ceil(rough)) : rough);
  const found: number[] = [];
  for (let count = Math.ceil(low / step - 1e-9); count * step <= high + 1e-9 * step; count++) found.push(Number((count * step).toPrecision(12)));
  return found;
}

export const mark = (value: number): string => String(value).replace("-", "−");

function path(spots: readonly (readonly [number, number])[]): string {
  return spots.map(([x, y], i) => `${i ? "L" : "M"}${x.toFixed(1)} ${y.toFixed(1)}`).join("");
}

/** Each label beside its line where no value and no other label stands, if there is such a place. */
function labelled<T extends { y: number }>(
  lines: readonly T[],
  spots: readonly (readonly [number, number])[],
  [left, right]: readonly [number, number],
): (T & { label: Label })[] {
  const taken: Label[] = [];
  const crowd = ({ x, y, anchor }: Label): number => {
    const from = anchor === "start" ? x : x - LABEL.width;
    const near = spots.filter(([sx, sy]) => sx > from - 6 && sx < from + LABEL.width + 6 && sy < y + 6 && sy > y - LABEL.height - 2);
    return near.length + 10 * taken.filter((other) => other.anchor === anchor && Math.abs(other.y - y) < LABEL.height).length;
  };
  return lines.map((line) => {
    const places = [line.y - LABEL.gap, line.y + LABEL.height - 1].flatMap((y): Label[] => [
      { x: left, y, anchor: "start" },
      { x: right, y, anchor: "end" },
    ]);
    const label = places.toSorted((a, b) => crowd(a) - crowd(b))[0]!;
    taken.push(label);
    return { ...line, label };
  });
}

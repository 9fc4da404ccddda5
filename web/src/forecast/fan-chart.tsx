/** A course with its fan of intervals, and a slider that tells every point of it. */

import type { VNode } from "preact";
import { useEffect, useMemo, useRef, useState } from "preact/hooks";

import { text as t } from "../text";
import type { Ahead, Course } from "./answer";
import { geometry, LEVELS, mark, type Geometry, type Stop } from "./geometry";
import { day, decimals, duration, interval, number, printed, since } from "./wording";

const FIRST_WIDTH = 360;
const YEAR = 365.25;

/** Where a patient's time begins and stands. */
export interface Clock {
  readonly lastVisit: number;
  readonly firstDay: string | null;
}

/** How long before the last visit, and the date where there is one. */
export function whenMeasured(days: number, { lastVisit, firstDay }: Clock): string {
  const before = lastVisit - days;
  const ago = before < 1 ? t.forecast.lastVisit : t.forecast.before(since(before));
  const date = day(firstDay, days);
  return date ? `${ago}, ${date}` : ago;
}

/** The forecast for about a year ahead, else the farthest. */
export function inAYear(course: Course): Ahead | undefined {
  return course.forecasts.find(({ horizon_days }) => horizon_days >= 0.95 * YEAR) ?? course.forecasts.at(-1);
}

/** The course in one sentence: what the picture shows first. */
export function summary(course: Course): string {
  const digits = decimals(course);
  const unit = course.display_unit;
  const last = course.history.at(-1);
  const ahead = inAYear(course);
  const now = last ? t.forecast.now(number(last.value, digits), unit) : t.forecast.never;
  if (!ahead) return now;
  const then = t.forecast.then(duration(ahead.horizon_days), number(ahead.value, digits), interval(ahead.intervals[90], digits));
  return `${now} ${then}`;
}

/** What a point of the chart says: when, and what. */
export function told(course: Course, stop: Pick<Stop, "kind" | "index">, clock: Clock): [when: string, what: string, range: string] {
  const digits = decimals(course);
  const unit = course.display_unit;
  if (stop.kind === "visit") {
    const { time_days, value } = course.history[stop.index]!;
    return [whenMeasured(time_days, clock), t.forecast.measuredThen(number(value, digits), unit), ""];
  }
  const { horizon_days, value, intervals } = course.forecasts[stop.index]!;
  const ranges = LEVELS.toReversed().map((level) => t.forecast.level(level, interval(intervals[level], digits)));
  return [t.forecast.ahead(duration(horizon_days)), t.forecast.expectedThen(number(value, digits), unit), ranges.join(", ")];
}

export function FanChart({ course, clock }: { course: Course; clock: Clock }): VNode {
  const box = useRef<HTMLDivElement>(null);
  const [width, setWidth] = useState(FIRST_WIDTH);
  useEffect(() => {
    if (!box.current) return;
    const watch = new ResizeObserver(([entry]) => entry && setWidth(Math.max(240, Math.round(entry.contentRect.width))));
    watch.observe(box.current);
    return () => watch.disconnect();
  }, []);
  const height = Math.round(Math.min(320, Math.max(220, width * 0.62)));
  const drawn = useMemo(() => geometry(course, clock.lastVisit, width, height), [course, clock.lastVisit, width, height]);
  const [chosen, choose] = useState<number | null>(null);
  const first = drawn.stops.findIndex(({ kind, index }) => kind === "ahead" && course.forecasts[index]!.horizon_days >= 0.95 * YEAR);
  const place = Math.min(chosen ?? (first < 0 ? drawn.stops.length - 1 : first), drawn.stops.length - 1);
  const stop = drawn.stops[place];
  const words = stop ? told(course, stop, clock) : (["", "", ""] as const);
  const nearest = (event: PointerEvent & { currentTarget: SVGElement }): void => {
    if (event.pointerType === "mouse" || event.type === "pointerdown") choose(closest(drawn.stops, event, width));
  };
  return (
    <div class="fan" ref={box}>
      {stop && (
        <p class="told">
          <strong>{words[0]}</strong> {words[1]}
          <span class="faint">{words[2]}</span>
        </p>
      )}
      <svg
        class={course.evidence.is_sufficient ? "" : "weak"}
        role="img"
        aria-label={t.forecast.chart(course.name, summary(course))}
        viewBox={`0 0 ${width} ${height}`}
        onPointerDown={nearest}
        onPointerMove={nearest}
      >
        <Axes drawn={drawn} width={width} />
        {drawn.bands.map(({ level, path }) => (
          <path key={level} class={`band b${level}`} d={path} />
        ))}
        {drawn.similar && <path class="similar" d={drawn.similar} />}
        <path class="middle" d={drawn.middle} />
        <path class="measured" d={drawn.measured} />
        {drawn.stops.map(({ kind, index, x, y }) => (
          <circle key={`${kind}${index}`} class={kind} cx={x} cy={y} r={kind === "visit" ? 3.6 : 3} />
        ))}
        {stop && (
          <g class="cursor">
            <line x1={stop.x} x2={stop.x} y1={drawn.top} y2={drawn.bottom} />
            <circle cx={stop.x} cy={stop.y} r={6.5} />
          </g>
        )}
        <Lines drawn={drawn} />
      </svg>
      {drawn.stops.length > 1 && (
        <input
          type="range"
          min={0}
          max={drawn.stops.length - 1}
          step={1}
          value={place}
          aria-label={t.forecast.slider(course.name)}
          aria-valuetext={words.filter(Boolean).join(" ")}
          onInput={(event) => choose(Number(event.currentTarget.value))}
        />
      )}
      <Legend course={course} drawn={drawn} />
    </div>
  );
}

function closest(stops: readonly Stop[], event: PointerEvent & { currentTarget: SVGElement }, width: number): number {
  const box = event.currentTarget.getBoundingClientRect();
  const at = ((event.clientX - box.left) / (box.width || 1)) * width;
  const gaps = stops.map(({ x }) => Math.abs(x - at));
  return gaps.indexOf(Math.min(...gaps));
}

function Axes({ drawn, width }: { drawn: Geometry; width: number }): VNode {
  const { left, right, top, bottom, today } = drawn;
  const unit = drawn.perYear ? t.forecast.yearMark : t.forecast.monthMark;
  return (
    <g class="axes">
      {drawn.yTicks.map(({ at, value }) => (
        <g key={value}>
          <line x1={left} x2={right} y1={at} y2={at} />
          <text x={left - 6} y={at + 4} text-anchor="end">
            {mark(value)}
          </text>
        </g>
      ))}
      <line class="today" x1={today} x2={today} y1={top} y2={bottom} />
      {drawn.xTicks.map(({ at, value }) => (
        <text key={value} x={Math.min(Math.max(at, value === 0 ? 32 : 18), width - 18)} y={bottom + 20} text-anchor="middle" class={value === 0 ? "zero" : ""}>
          {value === 0 ? t.forecast.lastVisitMark : `${value > 0 ? "+" : ""}${mark(value)} ${unit}`}
        </text>
      ))}
    </g>
  );
}

function Lines({ drawn }: { drawn: Geometry }): VNode {
  return (
    <g class="lines">
      {drawn.lines.map(({ line, y, label }) => (
        <g key={line.name}>
          <line x1={drawn.left} x2={drawn.right} y1={y} y2={y} />
          <text x={label.x} y={label.y} text-anchor={label.anchor}>
            {printed(line.name)}
          </text>
        </g>
      ))}
    </g>
  );
}

/** What the marks mean; the words carry it, the swatches only help. */
function Legend({ course, drawn }: { course: Course; drawn: Geometry }): VNode {
  const unseen = drawn.unseenLines.map(({ name }) => printed(name)).join(", ");
  return (
    <ul class="legend">
      {course.history.length > 0 && <Key mark="visit" label={t.forecast.measured} />}
      <Key mark="middle" label={t.forecast.expected} />
      {LEVELS.toReversed().map((level) => (
        <Key key={level} mark={`b${level}`} label={t.forecast.intervalOf(level)} />
      ))}
      {drawn.similar && <Key mark="similar" label={t.forecast.similar(course.neighbours?.num_patients ?? 0)} />}
      {unseen && <li class="faint">{t.forecast.unseen(unseen)}</li>}
    </ul>
  );
}

function Key({ mark, label: words }: { mark: string; label: string }): VNode {
  return (
    <li>
      <span class={`key ${mark}`} aria-hidden="true" />
      {words}
    </li>
  );
}

/** One measurement: chart, figures, and how its model was held to account. */

import type { VNode } from "preact";

import { Icon } from "../parts/icons";
import { text as t } from "../text";
import type { Course } from "./answer";
import { FanChart, inAYear, whenMeasured, type Clock } from "./fan-chart";
import { LEVELS } from "./geometry";
import { decimals, duration, interval, narrowInterval, number } from "./wording";

export function CourseCard({ course, clock }: { course: Course; clock: Clock }): VNode {
  return (
    <section class="course" aria-label={course.name}>
      <header>
        <h3>
          {course.name}
          {course.display_unit && <span class="faint">{course.display_unit}</span>}
        </h3>
        {!course.evidence.is_sufficient && <Insufficient reasons={course.evidence.reasons} />}
      </header>
      <Outlook course={course} />
      {course.history.length + course.forecasts.length > 0 && <FanChart course={course} clock={clock} />}
      <Expected course={course} />
      <Measured course={course} clock={clock} />
      <Model course={course} />
    </section>
  );
}

/** The two figures that are looked for first. */
function Outlook({ course }: { course: Course }): VNode {
  const digits = decimals(course);
  const last = course.history.at(-1);
  const ahead = inAYear(course);
  return (
    <dl class="outlook">
      <div>
        <dt>{t.forecast.lastMeasured}</dt>
        <dd>{last ? number(last.value, digits) : t.forecast.neverShort}</dd>
      </div>
      {ahead && (
        <div>
          <dt>{t.forecast.expectedIn(duration(ahead.horizon_days))}</dt>
          <dd>
            {number(ahead.value, digits)} <small>{t.forecast.level("90", interval(ahead.intervals[90], digits))}</small>
          </dd>
        </div>
      )}
    </dl>
  );
}

function Insufficient({ reasons }: { reasons: readonly string[] }): VNode {
  return (
    <p class="mark">
      <Icon name="alert" />
      <span>
        <strong>{t.forecast.insufficient}</strong> {reasons.join("; ")}.
      </span>
    </p>
  );
}

function Expected({ course }: { course: Course }): VNode {
  const digits = decimals(course);
  return (
    <div class="table" tabIndex={0} role="group" aria-label={t.forecast.tableOf(course.name)}>
      <table>
        <caption class="unseen">{t.forecast.tableOf(course.name)}</caption>
        <thead>
          <tr>
            <th scope="col">{t.forecast.in}</th>
            <th scope="col">{t.forecast.expectedHead}</th>
            {LEVELS.toReversed().map((level) => (
              <th key={level} scope="col">
                {t.forecast.percentOf(level)}
              </th>
            ))}
          </tr>
        </thead>
        <tbody>
          {course.forecasts.map((row) => (
            <tr key={row.horizon_days}>
              <th scope="row">{duration(row.horizon_days)}</th>
              <td>
                <strong>{number(row.value, digits)}</strong>
              </td>
              {LEVELS.toReversed().map((level) => (
                <td key={level}>{narrowInterval(row.intervals[level], digits)}</td>
              ))}
            </tr>
          ))}
        </tbody>
      </table>
    </div>
  );
}

function Measured({ course, clock }: { course: Course; clock: Clock }): VNode | null {
  if (!course.history.length) return null;
  return (
    <details>
      <summary>{t.forecast.measurements(course.history.length)}</summary>
      <table>
        <caption class="unseen">{t.forecast.measurements(course.history.length)}</caption>
        <thead>
          <tr>
            <th scope="col">{t.forecast.when}</th>
            <th scope="col">{course.name}</th>
          </tr>
        </thead>
        <tbody>
          {course.history.toReversed().map(({ time_days, value }) => (
            <tr key={`${time_days} ${value}`}>
              <th scope="row">
                {whenMeasured(time_days, clock)}
              </th>
              <td>{value}</td>
            </tr>
          ))}
        </tbody>
      </table>
    </details>
  );
}

function Model({ course: { model, neighbours } }: { course: Course }): VNode {
  const error = model.error === null ? "–" : String(model.error);
  const carried = model.error_last_value === null ? "–" : String(model.error_last_value);
  const held = model.interval_90_held_percent;
  return (
    <details>
      <summary>{t.forecast.how}</summary>
      <dl class="facts">
        <Fact name={t.forecast.model} value={model.method} />
        <Fact
          name={t.forecast.calibrated}
          value={t.forecast.calibratedOn(model.calibration_errors, model.calibration_patients)}
        />
        {held?.visits !== undefined && (
          <Fact name={t.forecast.held} value={t.forecast.heldOf(share(held.visits), share(held.last_visits))} />
        )}
        <Fact name={t.forecast.error} value={t.forecast.errors(error, carried)} />
        <Fact name={t.forecast.skill} value={share(model.skill_percent)} />
        {neighbours && <Fact name={t.forecast.similarPatients} value={String(neighbours.num_patients)} />}
      </dl>
    </details>
  );
}

function share(percent: number | null | undefined): string {
  return typeof percent === "number" ? `${percent.toFixed(1)}\u00a0%` : "–";
}

function Fact({ name, value }: { name: string; value: string }): VNode {
  return (
    <div>
      <dt>{name}</dt>
      <dd>{value}</dd>
    </div>
  );
}

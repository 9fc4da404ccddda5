import type { VNode } from "preact";
import { useEffect, useRef } from "preact/hooks";

import type { PatientForecast } from "../forecast/answer";
import { CourseCard } from "../forecast/course-card";
import { Findings } from "../forecast/findings";
import "../forecast/forecast.css";
import { RecordsForm } from "../forecast/records-form";
import { Risks } from "../forecast/risks";
import { answer, clear, shown, source } from "../forecast/session";
import { printed } from "../forecast/wording";
import { ActionButton } from "../parts/answer";
import { focusHeading } from "../route";
import { about, reachable } from "../state";
import { text as t } from "../text";

export function ForecastView(): VNode {
  return (
    <div class="scroll" tabIndex={0} role="region" aria-label={t.forecast.title}>
      <div class="column wide forecast">
        <h1 tabIndex={-1}>{t.forecast.title}</h1>
        {about.value && !about.value.forecast && <p class="note">{t.forecast.none}</p>}
        {reachable.value === false && <p class="note">{t.forecast.away}</p>}
        {answer.value ? <Shown /> : <RecordsForm />}
        <p class="faint">{t.forecast.use}</p>
      </div>
    </div>
  );
}

/** Opens on paper what a tap opens on the screen. */
function useOpenOnPaper(): void {
  useEffect(() => {
    let opened: HTMLDetailsElement[] = [];
    const open = (): void => {
      opened = [...document.querySelectorAll<HTMLDetailsElement>(".forecast details:not([open])")];
      for (const part of opened) part.open = true;
    };
    const close = (): void => opened.forEach((part) => (part.open = false));
    addEventListener("beforeprint", open);
    addEventListener("afterprint", close);
    return () => {
      removeEventListener("beforeprint", open);
      removeEventListener("afterprint", close);
    };
  }, []);
}

function Shown(): VNode | null {
  useOpenOnPaper();
  const heading = useRef<HTMLHeadingElement>(null);
  const found = answer.value;
  // Not when another patient is chosen: who chooses stays with the choice.
  useEffect(() => heading.current?.focus(), [found]);
  const chosen = found?.patients[shown.value];
  if (!found || !chosen) return null;
  const { patient, last_visit_days: lastVisit, codes, risks } = chosen.document;
  const clock = { lastVisit, firstDay: chosen.first_day };
  return (
    <>
      <div class="of">
        <h2 ref={heading} tabIndex={-1}>
          {t.forecast.of(patient)}
        </h2>
        <span class="faint">{source.value}</span>
        <span class="actions">
          <ActionButton icon="print" label={t.forecast.print} onClick={() => print()} />
          <ActionButton icon="plus" label={t.forecast.another} onClick={() => (clear(), focusHeading())} />
        </span>
      </div>
      {found.patients.length > 1 && <Patients patients={found.patients} />}
      <Findings answer={found} />
      <div class="courses">
        {codes.map((course) => (
          <CourseCard key={`${patient} ${course.code}`} course={course} clock={clock} />
        ))}
      </div>
      <Risks risks={risks} />
      <Account forecast={chosen} />
    </>
  );
}

function Patients({ patients }: { patients: readonly PatientForecast[] }): VNode {
  return (
    <label class="patients">
      <span>{t.forecast.patient(patients.length)}</span>
      <select value={shown.value} onChange={(event) => (shown.value = Number(event.currentTarget.value))}>
        {patients.map(({ document: { patient } }, index) => (
          <option key={patient} value={index} selected={index === shown.value}>
            {patient}
          </option>
        ))}
      </select>
    </label>
  );
}

/** The account in words; shown as text, whoever wrote it. */
function Account({ forecast: { narrative } }: { forecast: PatientForecast }): VNode {
  return (
    <>
      <h2>{t.forecast.account}</h2>
      <div class="account">
        {narrative.text
          .split("\n")
          .filter((line) => line.trim())
          .map((line, index) => (
            <p key={index}>{printed(line)}</p>
          ))}
        <p class="faint">
          {t.forecast.writtenBy[narrative.source]} {narrative.refused > 0 && t.forecast.refused(narrative.refused)}
        </p>
      </div>
    </>
  );
}

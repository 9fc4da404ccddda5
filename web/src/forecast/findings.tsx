/** What validation made of the records: which rows were used, which not, and why. */

import type { VNode } from "preact";

import { Icon } from "../parts/icons";
import { text as t } from "../text";
import type { ForecastAnswer } from "./answer";

const SHOWN = 20;

const sentence = (text: string): string => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;

export function Findings({ answer: { validation, findings, unused_codes: unused = [] } }: { answer: ForecastAnswer }): VNode {
  const left = validation.rows_in - validation.rows_kept;
  if (!findings.length && !left && !unused.length) return <p class="faint">{t.forecast.allUsed(validation.rows_in)}</p>;
  return (
    <details class={`findings ${left > 0 ? "left" : ""}`}>
      <summary>
        {left > 0 && <Icon name="alert" />}
        {t.forecast.used(validation.rows_kept, validation.rows_in, left)}
      </summary>
      <ul>
        {findings.toSorted((a, b) => a.row - b.row).slice(0, SHOWN).map((finding, index) => (
          <li key={index}>
            <strong>{[finding.row ? t.forecast.row(finding.row) : "", finding.patient, finding.code].filter(Boolean).join(" · ")}</strong>
            <span>{sentence(finding.found)}</span>
            <span class="faint">
              {finding.left_out ? t.forecast.leftOut : t.forecast.kept} {!finding.fix.startsWith("Nothing") && sentence(finding.fix)}
            </span>
          </li>
        ))}
      </ul>
      {unused.length > 0 && <p>{t.forecast.unused(unused.slice(0, SHOWN).join(", "))}</p>}
      {findings.length > SHOWN && <p class="faint">{t.forecast.more(findings.length - SHOWN)}</p>}
    </details>
  );
}

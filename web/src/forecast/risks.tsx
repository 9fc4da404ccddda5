/** Risks of crossing lines and of events, each with what it was calibrated on. */

import type { VNode } from "preact";

import { Icon } from "../parts/icons";
import { text as t } from "../text";
import type { Risk } from "./answer";
import { duration, percent, printed } from "./wording";

export function Risks({ risks }: { risks: readonly Risk[] }): VNode | null {
  if (!risks.length) return null;
  return (
    <>
      <h2>{t.forecast.risks}</h2>
      <div class="cards">
        {risks.map((risk) => (
          <RiskCard key={risk.name} risk={risk} />
        ))}
      </div>
    </>
  );
}

function RiskCard({ risk }: { risk: Risk }): VNode {
  const name = printed(risk.name);
  const crossed = risk.state === "has crossed the line";
  const columns = {
    at: risk.horizons.some(({ at_percent }) => at_percent !== null),
    by: risk.horizons.some(({ by_percent }) => by_percent !== null),
  };
  return (
    <section class="risk" aria-label={name}>
      <h3>{name}</h3>
      {risk.kind === "line" && <p class={crossed ? "state crossed" : "state"}>{stateText(risk)}</p>}
      {columns.at || columns.by ? (
        <table>
          <caption class="unseen">{t.forecast.riskOf(name)}</caption>
          <thead>
            <tr>
              <th scope="col">{t.forecast.in}</th>
              {columns.at && <th scope="col">{t.forecast.beyond}</th>}
              {columns.by && <th scope="col">{risk.kind === "event" ? t.forecast.happened : t.forecast.crossed}</th>}
            </tr>
          </thead>
          <tbody>
            {risk.horizons.map((row) => (
              <tr key={row.horizon_days}>
                <th scope="row">{duration(row.horizon_days)}</th>
                {columns.at && <Share value={row.at_percent} />}
                {columns.by && <Share value={row.by_percent} />}
              </tr>
            ))}
          </tbody>
        </table>
      ) : (
        <p>{t.forecast.noRisk}</p>
      )}
      <Calibration risk={risk} />
    </section>
  );
}

function Share({ value }: { value: number | null }): VNode {
  return (
    <td>
      <span class="share">
        <meter aria-hidden="true" min={0} max={100} value={value ?? 0} />
        {percent(value)}
      </span>
    </td>
  );
}

function stateText({ state = "", confirm_days: days }: Risk): string {
  const now = t.forecast.states[state as keyof typeof t.forecast.states] ?? state;
  return days ? `${now} ${t.forecast.confirmed(duration(days))}` : now;
}

function Calibration({ risk: { calibration } }: { risk: Risk }): VNode {
  const events = calibration.num_events ?? 0;
  if (calibration.is_calibrated === false) {
    return (
      <p class="mark">
        <Icon name="alert" />
        <span>
          <strong>{t.forecast.simulated}</strong> {t.forecast.tooFew(events)}
        </span>
      </p>
    );
  }
  return (
    <p class="faint">
      {t.forecast.riskCalibrated(events)}
      {typeof calibration.brier === "number" && ` ${t.forecast.brier(calibration.brier.toFixed(3))}`}
    </p>
  );
}

/** What the server says of a patient's course (docs/decisions/0005-serving-contract.md). */

import { call } from "../engines/api";
import { AskError } from "../engines/engine";

export type Level = "50" | "80" | "90";
export type Interval = readonly [low: number | null, high: number | null];

export interface Visit {
  readonly time_days: number;
  readonly value: number;
}

export interface Ahead {
  readonly horizon_days: number;
  readonly time_days: number;
  readonly value: number | null;
  readonly intervals: Readonly<Record<Level, Interval>>;
  readonly evidence: string;
}

export interface Line {
  readonly name: string;
  readonly value: number;
  readonly side: string;
}

/** One measurement's past and future. */
export interface Course {
  readonly code: string;
  readonly name: string;
  /** As clinicians write it: `mL/min/1.73 m²`. */
  readonly display_unit: string;
  readonly history: readonly Visit[];
  readonly evidence: {
    readonly is_sufficient: boolean;
    readonly reasons: readonly string[];
    readonly num_measurements: number;
  };
  readonly forecasts: readonly Ahead[];
  readonly lines: readonly Line[];
  readonly model: {
    readonly method: string;
    readonly error: number | null;
    readonly error_last_value: number | null;
    readonly skill_percent: number | null;
    readonly calibration_patients: number;
    readonly calibration_errors: number;
    /** Shares of other patients' measurements, by kind; forecasters of earlier versions have none. */
    readonly interval_90_held_percent?: Readonly<Partial<Record<"visits" | "last_visits", number | null>>>;
  };
  readonly neighbours: {
    readonly num_patients: number;
    readonly course: readonly { readonly horizon_days: number; readonly quartiles: readonly (number | null)[] }[];
  } | null;
}

export interface Risk {
  readonly name: string;
  readonly kind: "line" | "event";
  readonly state?: string;
  readonly confirm_days?: number | null;
  readonly calibration: { readonly is_calibrated?: boolean; readonly num_events?: number; readonly brier?: number | null };
  readonly horizons: readonly {
    readonly horizon_days: number;
    readonly at_percent: number | null;
    readonly by_percent: number | null;
  }[];
}

export interface PatientForecast {
  readonly document: {
    readonly patient: string;
    readonly last_visit_days: number;
    readonly codes: readonly Course[];
    readonly risks: readonly Risk[];
  };
  readonly narrative: { readonly text: string; readonly source: "model" | "template"; readonly refused: number };
  /** The date of day 0. */
  readonly first_day: string | null;
}

export interface Finding {
  readonly kind: string;
  readonly row: number;
  readonly patient: string;
  readonly code: string;
  readonly found: string;
  readonly fix: string;
  readonly left_out: boolean;
}

export interface ForecastAnswer {
  readonly patients: readonly PatientForecast[];
  readonly validation: { readonly rows_in: number; readonly rows_kept: number; readonly patients: number };
  readonly findings: readonly Finding[];
  /** Codes that the forecaster has no model of. */
  readonly unused_codes?: readonly string[];
}

/** Of a made-up patient, where the server has no example of its own. */
const EXAMPLE = `patient,time,code,value,unit
Example,2022-01-17,98979-8,70,mL/min/{1.73_m2}
Example,2022-01-17,4548-4,6.8,%
Example,2022-06-20,98979-8,73,mL/min/{1.73_m2}
Example,2022-06-20,4548-4,6.7,%
Example,2023-02-20,98979-8,72,mL/min/{1.73_m2}
Example,2023-02-20,4548-4,7.3,%
Example,2023-10-02,98979-8,68,mL/min/{1.73_m2}
Example,2023-10-02,4548-4,7.9,%
Example,2024-03-25,98979-8,66,mL/min/{1.73_m2}
Example,2024-03-25,4548-4,8.1,%
Example,2024-11-11,98979-8,62,mL/min/{1.73_m2}
Example,2024-11-11,4548-4,8.3,%
`;

/** The kind of a file, told from how its text begins. */
export function mediaType(records: string): "application/fhir+json" | "text/csv" {
  return /^\s*[{[]/.test(records) ? "application/fhir+json" : "text/csv";
}

/** Sends the records and brings back the forecasts. @throws AskError */
export async function fetchForecast(records: string, token: string | null, signal?: AbortSignal): Promise<ForecastAnswer> {
  const response = await call("/api/forecast", token, {
    method: "POST",
    headers: { "Content-Type": mediaType(records) },
    body: records,
    ...(signal && { signal }),
  });
  const answer = (await response.json().catch(() => null)) as ForecastAnswer | null;
  if (!answer?.patients?.length) throw new AskError("refused");
  return answer;
}

/** Records that the server's forecaster can work with. */
export async function fetchExample(token: string | null): Promise<string> {
  const response = await call("/api/forecast", token).catch(() => null);
  const said = (await response?.json().catch(() => null)) as { example?: string | null } | null;
  return said?.example ?? EXAMPLE;
}

"""Risks of crossing a line on patients that no model has seen: calibration and Brier score.

    python benchmarks/forecast_risk.py [--cache CACHE]

Lines on real sets, and on the simulated cohort with its thousands of events. Patients are split
into folds; everything (forecasts, courses, calibration) is fitted to the others, then asked about
each fold's patients: the risk of lying beyond the line *at* each later measurement, and of having
crossed it, confirmed where the line asks for that, *by* each horizon up to which the patient was
followed. Risks by a horizon are asked for at every visit before the crossing (up to 4,000 in all):
a few drawn from each patient would be those of patients with few visits more often, which nobody
knows at the time.

Beside ours stands a logistic regression on the last value and the logarithm of the horizon, fitted
to the same patients and rows. The calibration error (ECE) is over ten bins of equally many rows;
``calibration_error_by_chance`` is what perfect risks would show if rows of one origin shared their
luck (who has crossed by one horizon has by the next) and origins of one patient did not.
Bars: ECE <= 0.03, and a Brier score below the logistic regression's, wherever there are 200 events
(and 200 rows without one).
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import Literal

import numpy as np
from forecast_sets import SETS, load_set
from sklearn.linear_model import LogisticRegression

from medimind.config.forecast_models import ForecastConfig, LineConfig
from medimind.evaluation.statistics import paired_bootstrap
from medimind.forecasting.crossfit import OutOfFold
from medimind.forecasting.fit import default_horizons, fit_code
from medimind.forecasting.forecaster import CodeForecaster, point_and_spread
from medimind.forecasting.records.table import DAYS_A_YEAR, Records
from medimind.forecasting.risk_fit import brier, calibration_error, fit_line, make_line
from medimind.forecasting.risk_rows import RiskRows, rows_at, rows_by
from medimind.forecasting.simulate import simulate_cohort
from medimind.forecasting.windows import make_pairs, make_windows
from medimind.tracking.provenance import collect

RESULT = Path(__file__).parent / "results" / "forecast_risk.json"
FEWEST_EVENTS = 200
MOST_ERROR = 0.03


@dataclass(frozen=True)
class Ask:
    """A line of a set."""

    set_name: str
    line: LineConfig


def ask(
    name: str,
    code: str,
    value: float,
    side: Literal["below", "at_or_above"] = "below",
    *,
    days: float = 0.0,
) -> Ask:
    sign = "<" if side == "below" else ">="
    return Ask(name, LineConfig(name=f"{code} {sign} {value:g}", code=code, value=value, side=side,
                                confirm_days=days))  # fmt: skip


GFR, SUGAR = "98979-8", "4548-4"
SIMULATED = "simulated"
ASKS = (
    Ask(SIMULATED, LineConfig(name="eGFR < 60", code=GFR, value=60, unit="mL/min/{1.73_m2}",
                              confirm_days=90)),
    Ask(SIMULATED, LineConfig(name="eGFR < 15", code=GFR, value=15, unit="mL/min/{1.73_m2}",
                              confirm_days=90)),
    Ask(SIMULATED, LineConfig(name="HbA1c >= 6.5 %", code=SUGAR, value=6.5, unit="%",
                              side="at_or_above")),
    ask("pbc2", "serBilir", 2.0, "at_or_above"),
    ask("pbc2", "serBilir", 6.0, "at_or_above"),
    ask("pbc2", "albumin", 3.5),
    ask("pbc2", "albumin", 2.8),
    ask("pbc2", "platelets", 150),
    ask("pbc2", "prothrombin", 12.0, "at_or_above"),
    ask("aids", "CD4", 14.142),
    ask("aids", "CD4", 7.071),
    ask("prothro", "pro", 70),
    ask("prothro", "pro", 50),
    ask("paquid", "MMSE", 24),
    ask("paquid", "CESD", 16, "at_or_above"),
)  # fmt: skip
"""Bilirubin in mg/dL, albumin in g/dL, platelets in 1,000/uL, prothrombin time in s; CD4 is its
square root in that set (200 and 50 cells); prothrombin index in %; MMSE and CES-D at their usual
cut-offs."""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--patients", type=int, default=1200, help="of the simulated cohort")
    parser.add_argument("--sets", nargs="*", help="only these sets")
    parser.add_argument("--cache", type=Path, help="keep finished folds here, and go on from them")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    started = time.time()
    rows = []
    names = list(dict.fromkeys((one.set_name, one.line.code) for one in ASKS))
    for name, code in names:
        if arguments.sets and name not in arguments.sets:
            continue
        for fold in range(arguments.folds):
            rows += cached(arguments, name, code, fold)
    cells = [
        cell
        for one in ASKS
        for kind in ("at", "by")
        if (cell := summarise(one, kind, rows)) is not None
    ]
    report = {
        "command": "python benchmarks/forecast_risk.py"
        + (" --cache CACHE" if arguments.cache else ""),
        "date": date.today().isoformat(),
        "seconds": round(time.time() - started),
        "provenance": collect(seed=0),
        "simulated_patients": arguments.patients,
        "folds": arguments.folds,
        "totals": totals(cells),
        "cells": cells,
    }
    arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report["totals"], indent=1))


def records_of(arguments: argparse.Namespace, name: str) -> Records:
    if name == SIMULATED:
        return simulate_cohort(arguments.patients, seed=5).records
    return load_set(next(one for one in SETS if one.name == name), leaspy=None)


def cached(arguments: argparse.Namespace, name: str, code: str, fold: int) -> list[dict]:
    path = None
    if arguments.cache is not None:
        path = arguments.cache / f"risk-{name}-{code}-{fold}-of-{arguments.folds}.json"
        if path.exists():
            return json.loads(path.read_text(encoding="utf-8"))
    rows = run(records_of(arguments, name), name, code, fold, arguments.folds)
    print(f"  {name} {code} fold {fold}", file=sys.stderr, flush=True)
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(rows), encoding="utf-8")
    return rows


def run(records: Records, name: str, code: str, fold: int, folds: int) -> list[dict]:
    """Risks and outcomes of the fold's patients, for each line of the code."""
    config = ForecastConfig(max_fit_patients=1_000_000)
    order = np.random.default_rng(0).permutation(records.num_patients) % folds
    train, test = (
        records.take(np.flatnonzero(order != fold)),
        records.take(np.flatnonzero(order == fold)),
    )
    model, held = fit_code(train, code, config)
    unseen = asked(model, test, config)
    horizons = default_horizons(model.calibration.longest_years * DAYS_A_YEAR)
    rows = []
    for one in ASKS:
        if (one.set_name, one.line.code) != (name, code):
            continue
        line = make_line(one.line, model.unit)
        fitted = fit_line(line, model, held, horizons_days=horizons, num_courses=256, seed=0)
        pairs = {
            "at": (rows_at(fitted, model, held), rows_at(fitted, model, unseen)),
            "by": (
                rows_by(fitted, model, held, horizons, seed=0),
                rows_by(fitted, model, unseen, horizons, seed=0),
            ),
        }
        for kind, (known, new) in pairs.items():
            calibration = fitted.at if kind == "at" else fitted.by
            origin = np.unique(new.origin, return_inverse=True)[1]
            rows.append(
                {
                    "set": name,
                    "line": line.name,
                    "kind": kind,
                    "ours": calibration.apply(new.risk, new.distance, new.horizon).tolist(),
                    "simulated": new.risk.tolist(),
                    "last_value": last_value_risk(known, new).tolist(),
                    "happened": new.happened.astype(int).tolist(),
                    "patient": (new.patient + 100_000 * fold).tolist(),
                    "origin": (origin + 100_000 * fold).tolist(),
                    "is_calibrated": calibration.weights is not None,
                }
            )
    return rows


def asked(model: CodeForecaster, test: Records, config: ForecastConfig) -> OutOfFold:
    """The unseen patients' pairs with the final model's forecasts."""
    windows = make_windows(test, model.plan)
    origin, target = make_pairs(
        windows.offsets, config.steps, most_per_patient=config.pairs_per_patient, seed=0
    )
    horizon = windows.years[target] - windows.years[origin]
    point, spread = point_and_spread(model.point, windows, origin, horizon)
    return OutOfFold(
        windows=windows,
        fold_of_patient=np.zeros(test.num_patients, dtype=np.int64),
        models=(model.point,),
        origin=origin,
        target=target,
        horizon=horizon,
        point=point,
        spread=spread,
    )


def last_value_risk(known: RiskRows, new: RiskRows) -> np.ndarray:
    """A logistic regression on the last value and the horizon, fitted to the known patients."""
    if known.happened.all() or not known.happened.any():
        return np.full(len(new.happened), np.clip(known.happened.mean(), 1e-3, 1 - 1e-3))
    known_columns, new_columns = (
        np.column_stack([np.clip(rows.distance, -6, 6), np.log(np.maximum(rows.horizon, 1e-3))])
        for rows in (known, new)
    )
    fitted = LogisticRegression(C=100.0, max_iter=500).fit(known_columns, known.happened)
    return fitted.predict_proba(new_columns)[:, 1]


def summarise(one: Ask, kind: str, rows: list[dict]) -> dict | None:
    mine = [
        row
        for row in rows
        if (row["set"], row["line"], row["kind"]) == (one.set_name, one.line.name, kind)
    ]
    if not mine:
        return None
    column = {
        key: np.concatenate([np.asarray(row[key]) for row in mine])
        for key in ("ours", "simulated", "last_value", "happened", "patient", "origin")
    }
    happened = column["happened"].astype(bool)
    events = int(happened.sum())
    gain = (column["ours"] - happened) ** 2 - (column["last_value"] - happened) ** 2
    # Rows of one patient go together: the interval is over patients.
    owners, place = np.unique(column["patient"], return_inverse=True)
    interval = paired_bootstrap((np.bincount(place, gain) * len(owners) / len(gain)).tolist(),
                                seed=0)  # fmt: skip
    ours, plain = brier(column["ours"], happened), brier(column["last_value"], happened)
    error = calibration_error(column["ours"], happened)
    counts = min(events, len(happened) - events) >= FEWEST_EVENTS
    return {
        "set": one.set_name,
        "line": one.line.name,
        "kind": kind,
        "rows": len(happened),
        "events": events,
        "counts_for_the_bar": counts,
        "calibration_error": error,
        "calibration_error_by_chance": chance_error(column["ours"], column["origin"]),
        "calibration_error_last_value": calibration_error(column["last_value"], happened),
        "calibration_error_simulated": calibration_error(column["simulated"], happened),
        "brier": ours,
        "brier_last_value": plain,
        "brier_simulated": brier(column["simulated"], happened),
        "difference_low": interval.low,
        "difference_high": interval.high,
        "is_met": bool(error <= MOST_ERROR and ours < plain) if counts else None,
    }


def chance_error(risk: np.ndarray, origin: np.ndarray, *, draws: int = 100) -> float:
    """The calibration error of perfect risks on so many origins, which share no luck.

    Those of one patient do, so real samples show more by chance than this.
    """
    draw = np.random.default_rng(0)
    place = np.unique(origin, return_inverse=True)[1]
    luck = draw.random((draws, place.max() + 1))
    return float(np.mean([calibration_error(risk, one[place] < risk) for one in luck]))


def totals(cells: list[dict]) -> dict:
    judged = [cell for cell in cells if cell["counts_for_the_bar"]]
    return {
        "lines_and_kinds": len(cells),
        "with_200_events": len(judged),
        "calibration_error_at_most_0.03": sum(c["calibration_error"] <= MOST_ERROR for c in judged),
        "brier_below_last_value": sum(c["brier"] < c["brier_last_value"] for c in judged),
        "both": sum(bool(c["is_met"]) for c in judged),
        "missed": [f"{c['line']}, {c['kind']}" for c in judged if not c["is_met"]],
        "largest_calibration_error": max((c["calibration_error"] for c in judged), default=None),
    }


if __name__ == "__main__":
    main()

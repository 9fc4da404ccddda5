"""A patient's forecast as one JSON document: the only thing that pages and narratives see."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from medimind.forecasting.forecast import (
    EVIDENCE,
    LEVELS_PERCENT,
    LINE_STATES,
    SUFFICIENT,
    Forecasts,
    Risks,
)
from medimind.forecasting.forecaster import CodeForecaster, Forecaster
from medimind.forecasting.predict import last_visits
from medimind.forecasting.records.codes import find_code
from medimind.forecasting.records.table import DAYS_A_YEAR, Records, Series
from medimind.forecasting.records.unit_names import written_unit
from medimind.forecasting.risk import summary
from medimind.forecasting.windows import Windows, make_windows

VERSION = 1
INTENDED_USE = (
    "Decision support for professionals, and research. Not a medical device, not a diagnosis: "
    "a forecast says how similar courses went on, not what will happen to this person, and not "
    "what a treatment would change."
)
METHOD_TITLES = {
    "last_value": "last value carried forward",
    "patient_mean": "mean of the patient's values",
    "population_slope": "slope of the population",
    "local_trend_2": "trend of the last two values",
    "local_trend_3": "trend of the last three values",
    "local_trend_5": "trend of the last five values",
    "mixed_effects": "mixed effects",
    "mixed_effects_process": "mixed effects with an Ornstein-Uhlenbeck process",
    "logistic_mixed_effects": "logistic mixed effects",
    "linear": "ridge regression on the history",
    "leaspy": "the disease's course by leaspy",
    "stack": "weighted mean of all models",
    "stack and boosting": "weighted mean of all models, corrected by boosted trees",
}


def patient_documents(
    forecaster: Forecaster, records: Records, forecasts: Forecasts, risks: Risks
) -> Iterator[dict[str, Any]]:
    """One document a patient, in the records' order; numbers are rounded to four digits."""
    last_visit = last_visits(records)
    sources = [
        _Source(records.series(code), make_windows(records, forecaster.codes[code].plan))
        for code in forecasts.codes
    ]
    for index in range(records.num_patients):
        yield {
            "version": VERSION,
            "patient": str(records.patients[index]),
            "last_visit_days": _number(last_visit[index]),
            "codes": [
                _code(forecaster, source, forecasts, index, place)
                for place, source in enumerate(sources)
            ],
            "risks": _risks(forecaster, risks, index),
        }


@dataclass(frozen=True, slots=True, eq=False)
class _Source:
    """What all patients' documents of one code are made from."""

    series: Series
    windows: Windows


def _code(
    forecaster: Forecaster, source: _Source, forecasts: Forecasts, patient: int, place: int
) -> dict[str, Any]:
    code = forecasts.codes[place]
    model, series = forecaster.codes[code], source.series
    known = find_code(code)
    mine = slice(int(series.offsets[patient]), int(series.offsets[patient + 1]))
    count = len(forecasts.value) // (len(forecasts.codes) * len(forecasts.patients))
    start = (place * len(forecasts.patients) + patient) * count
    rows = range(start, start + count)
    reasons = sorted({int(forecasts.evidence[row]) for row in rows} - {SUFFICIENT})
    return {
        "code": code,
        "name": known.short if known else code,
        "unit": model.unit,
        "display_unit": written_unit(model.unit),
        "worse": known.worse if known else "both",
        "history": [
            {"time_days": _number(time), "value": _number(value)}
            for time, value in zip(series.time_days[mine], series.value[mine])
        ],
        "evidence": {
            "is_sufficient": not reasons,
            "reasons": [EVIDENCE[reason] for reason in reasons],
            "num_measurements": mine.stop - mine.start,
        },
        "forecasts": [
            {
                "horizon_days": _number(forecasts.horizon_days[row]),
                "time_days": _number(forecasts.time_days[row]),
                "value": _number(forecasts.value[row]),
                "intervals": {
                    str(level): [
                        _number(forecasts.low_KL[row, column]),
                        _number(forecasts.high_KL[row, column]),
                    ]
                    for column, level in enumerate(LEVELS_PERCENT)
                },
                "evidence": EVIDENCE[forecasts.evidence[row]],
            }
            for row in rows
        ],
        "lines": [
            {"name": one.line.name, "value": one.line.value, "side": one.line.side}
            for one in forecaster.lines
            if one.line.code == code
        ],
        "model": model_summary(model),
        "neighbours": _neighbours(forecaster, source, code, patient),
    }


def model_summary(model: CodeForecaster) -> dict[str, Any]:
    """What a reader should know of the model of one code."""
    return {
        "method": METHOD_TITLES.get(model.method, model.method),
        "error": _number(model.errors["chosen"]),
        "error_last_value": _number(model.errors["last_value"]),
        "skill_percent": _number(100 * model.skill),
        "num_patients": model.num_patients,
        "calibration_patients": model.calibration.num_patients,
        "calibration_errors": model.calibration.num_pairs,
        "interval_90_held_percent": {
            kind: _number(100 * share) for kind, share in model.coverage.items()
        },
    }


def _neighbours(
    forecaster: Forecaster, source: _Source, code: str, patient: int
) -> dict[str, Any] | None:
    found = forecaster.neighbours.get(code)
    plan, windows = forecaster.codes[code].plan, source.windows
    row = int(windows.offsets[patient + 1]) - 1
    if found is None or row < windows.offsets[patient]:
        return None
    horizons = np.array(forecaster.horizons_days)
    num, quartiles = found.course(
        windows.value[row],
        windows.recent_slope[row, -1],
        windows.years[row],
        horizons / DAYS_A_YEAR,
    )
    values = plan.scale.inverse(quartiles)
    return {
        "num_patients": num,
        "course": [
            {"horizon_days": _number(days), "quartiles": [_number(one) for one in row]}
            for days, row in zip(horizons, values)
            if not np.isnan(row).any()
        ],
    }


def _risks(forecaster: Forecaster, risks: Risks, patient: int) -> list[dict[str, Any]]:
    if not risks.names:
        return []
    num_patients = len(risks.patients)
    count = len(risks.by) // (len(risks.names) * num_patients)
    lines: Mapping[str, Any] = {one.line.name: one for one in forecaster.lines}
    documents = []
    for place, name in enumerate(risks.names):
        start = (place * num_patients + patient) * count
        document: dict[str, Any] = {"name": name}
        if name in lines:
            line, model = lines[name].line, lines[name]
            document |= {
                "kind": "line",
                "code": line.code,
                "value": _number(line.value),
                "unit": line.unit,
                "display_unit": written_unit(line.unit),
                "side": line.side,
                "confirm_days": _number(line.confirm_days),
                "state": LINE_STATES[risks.state[start]],
                "calibration": _rounded(summary(model.by)),
            }
        else:
            event = forecaster.events[name]
            document |= {
                "kind": "event",
                "calibration": _rounded(
                    {
                        "num_patients": event.num_patients,
                        "num_events": event.num_events,
                        **event.measures,
                    }
                ),
            }
        document["horizons"] = [
            {
                "horizon_days": _number(risks.horizon_days[row]),
                "at_percent": _number(100 * risks.at[row]),
                "by_percent": _number(100 * risks.by[row]),
            }
            for row in range(start, start + count)
        ]
        documents.append(document)
    return documents


def _rounded(values: Mapping[str, float | int | bool]) -> dict[str, Any]:
    return {
        name: value if isinstance(value, (bool, int)) else _number(value)
        for name, value in values.items()
    }


def _number(value: float) -> float | None:
    """Four significant digits (whole numbers whole); what is not finite has no number."""
    number = float(value)
    if not math.isfinite(number):
        return None
    if number == 0 or abs(number) >= 1000:
        return float(round(number))
    return float(f"{number:.4g}")

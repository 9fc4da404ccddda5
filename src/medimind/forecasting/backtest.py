"""Rolling origins on patients that no model has seen: errors, coverage, risks, in one table.

Patients are split into folds. For each fold everything (scales, experts, weights, gate, intervals)
is fitted to the others, then asked at every origin of the fold's patients for the visits that came
after. Legend: ``R`` forecasts.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medimind.config.forecast_models import ForecastConfig
from medimind.errors import DataError
from medimind.forecasting.conformal import LEVELS
from medimind.forecasting.fit import fit_code, too_few
from medimind.forecasting.forecaster import point_and_spread
from medimind.forecasting.records.table import DAYS_A_YEAR, Flags, Floats, Integers, Records
from medimind.forecasting.windows import make_pairs, make_windows

STEPS = (1, 2, 4)


@dataclass(frozen=True, slots=True, eq=False)
class CodeBacktest:
    """One code's forecasts on unseen patients.

    Attributes:
        code: The code.
        unit: Its unit.
        patient_index: (R,) Patient.
        steps: (R,) Measurements ahead.
        horizon_days: (R,) Days ahead.
        error: (R,) Absolute error of ours.
        error_last_value: (R,) That of the last value carried forward.
        error_patient_mean: (R,) That of the patient's mean.
        is_covered: Level in percent -> (R,) whether the interval held the value.
        width: Level in percent -> (R,) width of the interval.
        methods: What passed the gate in each fold.
    """

    code: str
    unit: str
    patient_index: Integers
    steps: Integers
    horizon_days: Floats
    error: Floats
    error_last_value: Floats
    error_patient_mean: Floats
    is_covered: dict[int, Flags] = field(default_factory=dict)
    width: dict[int, Floats] = field(default_factory=dict)
    methods: tuple[str, ...] = ()

    def rows(self) -> list[dict[str, Any]]:
        """A row per number of measurements ahead."""
        return [self._row(step) for step in np.unique(self.steps)]

    def _row(self, step: int) -> dict[str, Any]:
        mine = self.steps == step
        ours, last = float(self.error[mine].mean()), float(self.error_last_value[mine].mean())
        row = {
            "code": self.code,
            "unit": self.unit,
            "steps": int(step),
            "median_days": float(np.median(self.horizon_days[mine])),
            "num_forecasts": int(mine.sum()),
            "num_patients": len(np.unique(self.patient_index[mine])),
            "error": ours,
            "error_last_value": last,
            "error_patient_mean": float(self.error_patient_mean[mine].mean()),
            "skill_percent": 100 * (1 - ours / last) if last > 0 else 0.0,
        }
        for level in self.is_covered:
            row[f"coverage_{level}"] = float(self.is_covered[level][mine].mean())
            row[f"width_{level}"] = float(self.width[level][mine].mean())
        return row


def backtest(
    records: Records,
    config: ForecastConfig,
    *,
    num_folds: int = 3,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> list[CodeBacktest]:
    """A backtest of every code that has enough measurements.

    Raises:
        DataError: If no code has.
    """
    codes = [code for code in records.codes if too_few(records, code, config) is None]
    if not codes:
        raise DataError("no code has enough measurements for a backtest")
    fold_of = np.random.default_rng(config.seed).permutation(records.num_patients) % num_folds
    results, done = [], 0
    for code in codes:
        parts = []
        for fold in range(num_folds):
            if on_progress:
                on_progress("backtest", done, len(codes) * num_folds)
            parts.append(_fold(records, code, fold_of, fold, config))
            done += 1
        results.append(_joined(parts))
    if on_progress:
        on_progress("backtest", done, done)
    return results


def _fold(
    records: Records, code: str, fold_of: Integers, fold: int, config: ForecastConfig
) -> CodeBacktest:
    model, _ = fit_code(records.take(np.flatnonzero(fold_of != fold)), code, config)
    patients = np.flatnonzero(fold_of == fold)
    windows = make_windows(records.take(patients), model.plan)
    origin, target = make_pairs(windows.offsets, STEPS)
    horizon = windows.years[target] - windows.years[origin]
    point, spread = point_and_spread(model.point, windows, origin, horizon)
    inverse = model.plan.scale.inverse
    truth = inverse(windows.value[target])
    covered, width = {}, {}
    for level in LEVELS:
        low, high = (
            inverse(point + spread * model.calibration.multiplier(horizon, 50 + side * 50 * level))
            for side in (-1, 1)
        )
        covered[round(100 * level)] = (low <= truth) & (truth <= high)
        width[round(100 * level)] = high - low
    return CodeBacktest(
        code=code,
        unit=model.unit,
        patient_index=patients[windows.patient_index[origin]],
        steps=target - origin,
        horizon_days=horizon * DAYS_A_YEAR,
        error=np.abs(inverse(point) - truth),
        error_last_value=np.abs(inverse(windows.value[origin]) - truth),
        error_patient_mean=np.abs(inverse(windows.mean[origin]) - truth),
        is_covered=covered,
        width=width,
        methods=(model.method,),
    )


def _joined(parts: list[CodeBacktest]) -> CodeBacktest:
    def join(name: str) -> Any:
        return np.concatenate([getattr(part, name) for part in parts])

    levels = parts[0].is_covered
    return CodeBacktest(
        code=parts[0].code,
        unit=parts[0].unit,
        patient_index=join("patient_index"),
        steps=join("steps"),
        horizon_days=join("horizon_days"),
        error=join("error"),
        error_last_value=join("error_last_value"),
        error_patient_mean=join("error_patient_mean"),
        is_covered={x: np.concatenate([part.is_covered[x] for part in parts]) for x in levels},
        width={x: np.concatenate([part.width[x] for part in parts]) for x in levels},
        methods=tuple(method for part in parts for method in part.methods),
    )

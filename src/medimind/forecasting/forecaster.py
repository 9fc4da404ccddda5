"""A fitted forecaster: what prediction needs, as plain values and arrays.

Legend: ``R`` forecasts, ``E`` experts, ``F`` features, ``Q`` percentiles.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from medimind.forecasting.conformal import Calibration
from medimind.forecasting.events import EventModel
from medimind.forecasting.models.experts import Experts, ask_experts
from medimind.forecasting.models.trees import Trees
from medimind.forecasting.neighbours import Neighbours
from medimind.forecasting.records.table import Floats, Integers
from medimind.forecasting.risk import LineModel
from medimind.forecasting.stack import Stack
from medimind.forecasting.windows import FeaturePlan, Windows


@dataclass(frozen=True, slots=True, eq=False)
class PointModel:
    """What gives a forecast and the expected size of its error.

    Attributes:
        experts: Fitted experts.
        stack: Their weights.
        trees: What boosting adds to the stack; ``None`` where it did not help.
        trees_share: Share of that which is taken.
        spread: Trees for the logarithm of the error's size; ``None`` takes 1.
    """

    experts: Experts
    stack: Stack
    trees: Trees | None
    trees_share: float
    spread: Trees | None


@dataclass(frozen=True, slots=True, eq=False)
class CodeForecaster:
    """The models of one code.

    Attributes:
        plan: How features are made.
        unit: UCUM unit of the values.
        point: Forecast and size of error.
        method: What passed the gate: ``stack and boosting``, ``stack``, or one expert's name.
        calibration: Percentiles of errors on other patients.
        population: (Q,) Percentiles of all values, in the unit, for patients without any.
        errors: Mean absolute error on other patients, in the unit, by method.
        num_patients: Patients that it was fitted to.
        num_measurements: Their measurements.
        visit_gap_years: Median time between two measurements.
        coverage: Shares of other patients' ``visits`` and ``last_visits`` that the 90 % interval
            held; empty in forecasters of earlier versions.
    """

    plan: FeaturePlan
    unit: str
    point: PointModel
    method: str
    calibration: Calibration
    population: Floats
    errors: Mapping[str, float]
    num_patients: int
    num_measurements: int
    visit_gap_years: float
    coverage: Mapping[str, float] = field(default_factory=dict)

    @property
    def skill(self) -> float:
        """How far below the last value's error ours lies: 0.1 is a tenth less."""
        return 1.0 - self.errors["chosen"] / self.errors["last_value"]


@dataclass(frozen=True, slots=True, eq=False)
class Forecaster:
    """Models of all codes, with what they were made from.

    Attributes:
        codes: By code.
        lines: Risks of crossing a line.
        events: Risks of events, by name.
        neighbours: Courses of past patients by code; empty where they are not kept.
        horizons_days: Horizons that are forecast.
        min_visits: With fewer measurements a forecast is marked.
        left_out: Codes and events without a model, and why.
        settings: The configuration, for reports.
    """

    codes: Mapping[str, CodeForecaster]
    lines: tuple[LineModel, ...]
    events: Mapping[str, EventModel]
    neighbours: Mapping[str, Neighbours]
    horizons_days: tuple[float, ...]
    min_visits: int
    left_out: Mapping[str, str]
    settings: Mapping[str, Any]


def point_and_spread(
    model: PointModel, windows: Windows, origin: Integers, horizon_years: Floats
) -> tuple[Floats, Floats]:
    """(R,) Forecast and (R,) expected size of its error, both on the models' scale."""
    expert_RE = ask_experts(model.experts, windows, origin, horizon_years)
    point = model.stack.combine(expert_RE, horizon_years)
    if model.trees is None and model.spread is None:
        return point, np.ones_like(point)
    features = pair_features(windows, origin, horizon_years, expert_RE, point)
    if model.trees is not None:
        point = point + model.trees_share * model.trees.predict(features)
    spread = np.ones_like(point)
    if model.spread is not None:
        spread = np.exp(model.spread.predict(features))
    return point, spread


def pair_features(
    windows: Windows,
    origin: Integers,
    horizon_years: Floats,
    expert_RE: Floats,
    stacked: Floats,
) -> Floats:
    """(R, F) Features of the trees: the history, the horizon, what the experts say of it."""
    value = windows.value[origin]
    return np.column_stack(
        [
            windows.features_MF[origin],
            horizon_years,
            expert_RE[:, 1:] - value[:, None],
            stacked - value,
        ]
    )

"""The experts of one code, fitted together and asked together."""

from __future__ import annotations

import dataclasses
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from medimind.config.forecast_models import LeaspyConfig
from medimind.forecasting.models import simple
from medimind.forecasting.models.course import DiseaseCourse, forecast_course
from medimind.forecasting.models.leaspy_fit import fit_course
from medimind.forecasting.models.linear import LinearModel, fit_linear
from medimind.forecasting.models.mixed import MixedModel, filter_states, forecast_mixed
from medimind.forecasting.models.mixed_fit import fit_linear_mixed, fit_mixed_process
from medimind.forecasting.records.table import Floats, Integers
from medimind.forecasting.scale import Scale
from medimind.forecasting.windows import RECENT, Windows

# Scaled values beyond this were never seen; an expert that runs away is held here.
_FARTHEST = 8.0


@dataclass(frozen=True, slots=True, eq=False)
class Experts:
    """Fitted experts, in the order of ``names``.

    Attributes:
        names: ``last_value``, ``patient_mean``, ... ; a local trend has the number of measurements
            it is taken from at its end.
        slope: The population's change a year.
        mixed: Mixed-effects model by expert.
        bounds: Asymptotes of the logistic curve, on the models' scale.
        linear: Ridge regression on the history.
        course: The disease's course that leaspy found.
        code: The code, as the course knows it.
        scale: Its scale.
    """

    names: tuple[str, ...]
    slope: float
    mixed: dict[str, MixedModel]
    bounds: tuple[float, float]
    linear: LinearModel | None
    course: DiseaseCourse | None = None
    code: str = ""
    scale: Scale = field(default_factory=Scale)


def fit_experts(
    windows: Windows,
    patients: Integers,
    origin: Integers,
    target: Integers,
    *,
    wanted: Sequence[str],
    scale: Scale,
    seed: int,
    code: str = "",
    leaspy: LeaspyConfig | None = None,
    course_patients: Integers | None = None,
) -> Experts:
    """Experts fitted to these patients; pairs of others are left aside.

    leaspy takes long, so it may be fitted to ``course_patients``, fewer of them.
    """
    mine = np.isin(windows.patient_index[origin], patients)
    origin, target = origin[mine], target[mine]
    horizon = windows.years[target] - windows.years[origin]
    change = windows.value[target] - windows.value[origin]
    fits = {
        "mixed_effects": fit_linear_mixed,
        "mixed_effects_process": fit_mixed_process,
        "logistic_mixed_effects": fit_linear_mixed,
    }
    mixed: dict[str, MixedModel] = {}
    bounds = _asymptotes(windows, scale)
    for name in wanted:
        if name not in fits:
            continue
        seen = _on_logits(windows, bounds) if name == "logistic_mixed_effects" else windows
        fitted = fits[name](seen, patients, seed=seed)
        if fitted is not None:
            mixed[name] = fitted
    course = None
    if leaspy is not None and windows.visits is not None:
        some = patients if course_patients is None else course_patients
        course = fit_course(windows.visits, some, leaspy, seed=seed)
    return Experts(
        names=expert_names(wanted),
        slope=simple.fit_population_slope(change, horizon, np.ones(len(horizon))),
        mixed=mixed,
        bounds=bounds,
        linear=fit_linear(windows, origin, target) if "linear" in wanted else None,
        course=course,
        code=code,
        scale=scale,
    )


def expert_names(wanted: Sequence[str]) -> tuple[str, ...]:
    """The experts one by one: a local trend is one for each number of measurements."""
    names: list[str] = []
    for name in wanted:
        names += [f"{name}_{number}" for number in RECENT] if name == "local_trend" else [name]
    return tuple(names)


def ask_experts(
    experts: Experts, windows: Windows, origin: Integers, horizon_years: Floats
) -> Floats:
    """(R, E) What each expert forecasts; a mixed model that did not converge stands aside.

    In its place stands the population's slope.
    """
    columns: list[Floats] = []
    for name in experts.names:
        if name == "last_value":
            column = simple.last_value(windows, origin, horizon_years)
        elif name == "patient_mean":
            column = simple.patient_mean(windows, origin, horizon_years)
        elif name.startswith("local_trend_"):
            recent = RECENT.index(int(name.rpartition("_")[2]))
            column = simple.local_trend(windows, origin, horizon_years, recent=recent)
        elif name == "linear" and experts.linear is not None:
            column = experts.linear.predict(windows, origin, horizon_years)
        elif name == "leaspy" and experts.course is not None and windows.visits is not None:
            value = forecast_course(
                experts.course, windows.visits, experts.code, origin, horizon_years
            )
            column = experts.scale.forward(value)
        elif name == "logistic_mixed_effects" and name in experts.mixed:
            model, low, high = experts.mixed[name], *experts.bounds
            logits = _on_logits(windows, experts.bounds)
            state = filter_states(model, logits)
            mean, _ = forecast_mixed(model, logits, state, origin, horizon_years)
            column = low + (high - low) / (1 + np.exp(-np.clip(mean, -30, 30)))
        elif name in experts.mixed:
            model = experts.mixed[name]
            state = filter_states(model, windows)
            column, _ = forecast_mixed(model, windows, state, origin, horizon_years)
        else:
            column = simple.population_slope(windows, origin, horizon_years, slope=experts.slope)
        columns.append(np.clip(column, -_FARTHEST, _FARTHEST))
    return np.column_stack(columns)


def _asymptotes(windows: Windows, scale: Scale) -> tuple[float, float]:
    """Between which values logistic curves run: 0 and 1 for shares, else a little beyond all seen.

    Shares are told by their values: none outside of 0 and 1, some in the upper half.
    """
    low, high = float(windows.value.min()), float(windows.value.max())
    plain = scale.inverse(np.array([low, high]))
    if plain[0] >= -1e-9 and 0.5 < plain[1] <= 1 + 1e-9:
        bottom, top = scale.forward(np.array([0.0, 1.0]))
        if np.isfinite([bottom, top]).all():
            return min(float(bottom), low - 1e-3), max(float(top), high + 1e-3)
    margin = 0.05 * (high - low) or 1.0
    return low - margin, high + margin


def _on_logits(windows: Windows, bounds: tuple[float, float]) -> Windows:
    low, high = bounds
    share = np.clip((windows.value - low) / (high - low), 0.01, 0.99)
    return dataclasses.replace(windows, value=np.log(share / (1 - share)))


def log_missing(experts: Experts, wanted: Sequence[str], *, code: str) -> None:
    """Warn of mixed models that did not converge."""
    for name in wanted:
        if "mixed_effects" in name and name not in experts.mixed:
            logging.getLogger(__name__).warning(
                "%s: %s did not converge; the population's slope stands in for it", code, name
            )

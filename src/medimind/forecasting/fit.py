"""A forecaster from records.

Every error that weights, gate, intervals or risks are made from is one on a patient that the model
had not seen (`crossfit`). What is kept in the end is fitted to all patients.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np

from medimind.config.forecast_models import ForecastConfig
from medimind.errors import DataError
from medimind.forecasting.conformal import PERCENTILES
from medimind.forecasting.crossfit import OutOfFold, cross_fit
from medimind.forecasting.events import EventModel, fit_event
from medimind.forecasting.forecaster import CodeForecaster, Forecaster
from medimind.forecasting.intervals import make_intervals
from medimind.forecasting.models.experts import log_missing
from medimind.forecasting.neighbours import Neighbours, make_neighbours
from medimind.forecasting.records.codes import find_code
from medimind.forecasting.records.table import DAYS_A_YEAR, Records
from medimind.forecasting.risk import LineModel
from medimind.forecasting.risk_fit import fit_line, make_line
from medimind.forecasting.windows import make_pairs, make_windows, plan_features

FEWEST_PAIRS = 100
FEWEST_PATIENTS = 20

_HORIZONS_DAYS = (7, 14, 30, 61, 91, 182, 274, 365, 548, 730, 1096, 1461, 1826, 2557, 3652)
_MOST_HORIZONS = 6

Progress = Callable[[str, int, int], None]


def fit_forecaster(
    records: Records, config: ForecastConfig, *, on_progress: Progress | None = None
) -> Forecaster:
    """Models of every code that has enough measurements, of lines and of events.

    Raises:
        DataError: If no code has enough.
        ConfigError: If a line has another unit than the records.
    """
    records = _at_most(records, config)
    models: dict[str, CodeForecaster] = {}
    held: dict[str, OutOfFold] = {}
    left_out: dict[str, str] = {}
    for index, code in enumerate(records.codes):
        if on_progress:
            on_progress("fitting", index, len(records.codes))
        reason = too_few(records, code, config)
        if reason:
            left_out[code] = reason
        else:
            models[code], held[code] = fit_code(records, code, config)
    if on_progress:
        on_progress("fitting", len(records.codes), len(records.codes))
    if not models:
        reasons = "; ".join(f"{code}: {reason}" for code, reason in left_out.items())
        raise DataError(
            f"no code has enough measurements to forecast ({reasons})",
            fix="Give records of more patients with repeated measurements",
        )
    longest = max(model.calibration.longest_years for model in models.values())
    horizons = config.horizons_days or default_horizons(longest * DAYS_A_YEAR)
    events, no_events = _events(records, models, horizons, config)
    return Forecaster(
        codes=models,
        lines=_lines(models, held, horizons, config),
        events=events,
        neighbours=_neighbours(held, config),
        horizons_days=horizons,
        min_visits=config.min_visits,
        left_out={**left_out, **no_events},
        settings=config.public(),
    )


def fit_code(
    records: Records, code: str, config: ForecastConfig
) -> tuple[CodeForecaster, OutOfFold]:
    """The models of one code, and those of the folds that they were chosen by."""
    plan = plan_features(records, code)
    if config.leaspy is not None:
        together = course_codes(records, config)
        if code in together:
            plan = dataclasses.replace(plan, course_codes=together)
    windows = make_windows(records, plan)
    point, choice, held = cross_fit(windows, plan.scale, config, code=code)
    log_missing(point.experts, config.experts, code=code)
    calibration, coverage = make_intervals(held, wanted=config.intervals_for)
    series = records.series(code)
    origin, target = make_pairs(windows.offsets, (1,))
    model = CodeForecaster(
        plan=plan,
        unit=series.unit,
        point=point,
        method=choice.method,
        calibration=calibration,
        coverage=coverage,
        population=np.percentile(series.value, PERCENTILES),
        errors=choice.errors,
        num_patients=int(np.sum(np.diff(series.offsets) > 0)),
        num_measurements=len(series.value),
        visit_gap_years=float(np.median(windows.years[target] - windows.years[origin])),
    )
    return model, held


def course_codes(records: Records, config: ForecastConfig) -> tuple[str, ...]:
    """The codes that leaspy models together, as far as they are measured often enough."""
    wanted = config.leaspy.codes if config.leaspy is not None else ()
    found = []
    for code in records.codes:
        if too_few(records, code, config) is not None:
            continue
        value = records.series(code).value
        if code in wanted or (not wanted and value.min() >= 0 and value.max() <= 1):
            found.append(code)
    return tuple(found)


def too_few(records: Records, code: str, config: ForecastConfig) -> str | None:
    """Why a code cannot be forecast from these records; ``None`` if it can."""
    offsets = records.series(code).offsets
    repeated = int(np.sum(np.diff(offsets) > 1))
    if repeated < FEWEST_PATIENTS:
        return f"{repeated} patients with two measurements or more, {FEWEST_PATIENTS} are needed"
    num_pairs = len(make_pairs(offsets, config.steps)[0])
    if num_pairs < FEWEST_PAIRS:
        return f"{num_pairs} pairs of measurements, {FEWEST_PAIRS} are needed"
    return None


def default_horizons(longest_days: float) -> tuple[float, ...]:
    """Round horizons up to the longest that was calibrated."""
    usable = [float(days) for days in _HORIZONS_DAYS if days <= longest_days]
    return tuple(usable[-_MOST_HORIZONS:]) or (max(1.0, round(longest_days)),)


def _at_most(records: Records, config: ForecastConfig) -> Records:
    if records.num_patients <= config.max_fit_patients:
        return records
    draw = np.random.default_rng(config.seed)
    chosen = draw.choice(records.num_patients, config.max_fit_patients, replace=False)
    return records.take(np.sort(chosen))


def _lines(
    models: dict[str, CodeForecaster],
    held: dict[str, OutOfFold],
    horizons: tuple[float, ...],
    config: ForecastConfig,
) -> tuple[LineModel, ...]:
    fitted: list[LineModel] = []
    for line in config.lines:
        known = find_code(line.code)
        code = line.code if line.code in models or known is None else known.code
        if code not in models:
            continue
        is_taken = line.name in {one.line.name for one in fitted}
        named = line.model_copy(
            update={"code": code, "name": f"{line.name} ({code})" if is_taken else line.name}
        )
        fitted.append(
            fit_line(
                make_line(named, models[code].unit),
                models[code],
                held[code],
                horizons_days=horizons,
                num_courses=config.num_paths,
                seed=config.seed,
            )
        )
    return tuple(fitted)


def _events(
    records: Records,
    models: dict[str, CodeForecaster],
    horizons: tuple[float, ...],
    config: ForecastConfig,
) -> tuple[dict[str, EventModel], dict[str, str]]:
    fitted: dict[str, EventModel] = {}
    left_out: dict[str, str] = {}
    plans = {code: model.plan for code, model in models.items()}
    for name in records.events:
        model = fit_event(
            records,
            name,
            plans,
            horizons_days=horizons,
            num_folds=config.num_folds,
            seed=config.seed,
        )
        if isinstance(model, str):
            left_out[f"event {name}"] = model
        else:
            fitted[name] = model
    return fitted, left_out


def _neighbours(held: dict[str, OutOfFold], config: ForecastConfig) -> dict[str, Neighbours]:
    if not config.neighbours:
        return {}
    return {code: make_neighbours(one.windows, seed=config.seed) for code, one in held.items()}

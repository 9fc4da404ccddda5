"""Risk models from forecasts on unseen patients: courses, calibration, and how good they are.

Legend: ``R`` rows (an origin and a horizon), ``M`` measurements of the code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.special import expit

from medimind.config.forecast_models import LineConfig
from medimind.errors import ConfigError, MissingExtraError
from medimind.forecasting.crossfit import OutOfFold
from medimind.forecasting.forecaster import CodeForecaster
from medimind.forecasting.records.table import DAYS_A_YEAR, Flags, Floats, Integers
from medimind.forecasting.risk import (
    Line,
    LineModel,
    RiskCalibration,
    beyond_since,
    crossing_risk,
    draw_courses,
    error_correlation,
    percentile_of_line,
    risk_features,
)

FEWEST_EVENTS = 30
"""With fewer on either side risks are simulated, not calibrated, and marked."""

_ORIGINS_A_PATIENT = 4
_MOST_GRID_TIMES = 24


@dataclass(frozen=True, slots=True, eq=False)
class RiskRows:
    """What was forecast and what came, on unseen patients.

    Attributes:
        risk: (R,) Simulated.
        distance: (R,) From the last value to the line on the models' scale.
        horizon: (R,) Years.
        happened: (R,) Whether the value was beyond the line, or had crossed it.
        fold: (R,) Fold of the patient.
        patient: (R,) The patient.
    """

    risk: Floats
    distance: Floats
    horizon: Floats
    happened: Flags
    fold: Integers
    patient: Integers


def make_line(config: LineConfig, unit: str) -> Line:
    """The line, if its unit is that of the records.

    Raises:
        ConfigError: If it is not.
    """
    if config.unit != unit:
        raise ConfigError(
            f"the line '{config.name}' is in {config.unit}, but {config.code} is in {unit}",
            fix=f"Give the line in {unit}",
        )
    return Line(
        name=config.name,
        code=config.code,
        value=config.value,
        unit=config.unit,
        side=config.side,
        confirm_days=config.confirm_days,
    )


def fit_line(
    line: Line,
    model: CodeForecaster,
    held: OutOfFold,
    *,
    horizons_days: tuple[float, ...],
    num_courses: int,
    seed: int,
) -> LineModel:
    """The risk model of one line."""
    score = (held.windows.value[held.target] - held.point) / held.spread
    alike, reach = error_correlation(score, held.origin, held.horizon)
    grid = _grid(model.visit_gap_years, np.array(horizons_days) / DAYS_A_YEAR)
    courses = draw_courses(grid, alike=alike, reach_years=reach, num_courses=num_courses, seed=seed)
    nothing = RiskCalibration(None, 0, 0, {})
    bare = LineModel(line, grid, courses, at=nothing, by=nothing)
    at, by = rows_at(bare, model, held), rows_by(bare, model, held, horizons_days, seed=seed)
    return LineModel(line, grid, courses, at=fit_calibration(at), by=fit_calibration(by))


def _grid(gap_years: float, horizons_years: Floats) -> Floats:
    """Times of simulated visits: as far apart as real ones, and every horizon."""
    longest = float(horizons_years.max())
    step = max(gap_years, longest / _MOST_GRID_TIMES, 1e-3)
    times = np.concatenate([np.arange(step, longest, step), horizons_years])
    times = np.sort(times)
    # A horizon takes the place of a visit that is nearly at the same time.
    keep = [
        index
        for index, time in enumerate(times)
        if np.isclose(time, horizons_years).any()
        or np.min(np.abs(horizons_years - time)) > 0.25 * step
    ]
    return np.unique(times[keep])


def rows_at(bare: LineModel, model: CodeForecaster, held: OutOfFold) -> RiskRows:
    """Pairs of an origin and a later measurement, as unseen patients had them."""
    windows, line = held.windows, bare.line
    below = percentile_of_line(
        line, model.plan.scale, model.calibration, held.point, held.spread, held.horizon
    )
    value = model.plan.scale.inverse(windows.value[held.target])
    return RiskRows(
        risk=below if line.side == "below" else 1 - below,
        distance=_distance(line, model, windows.value[held.origin]),
        horizon=held.horizon,
        happened=line.is_beyond(value),
        fold=held.fold_of_patient[windows.patient_index[held.origin]],
        patient=windows.patient_index[held.origin],
    )


def rows_by(
    bare: LineModel,
    model: CodeForecaster,
    held: OutOfFold,
    horizons_days: tuple[float, ...],
    *,
    seed: int,
) -> RiskRows:
    """Origins that had not crossed, at each horizon to which the patient was followed.

    Origins that were followed less far are left out whether or not they had crossed by then: to
    keep only those that crossed would overstate the risk.
    """
    windows, line = held.windows, bare.line
    value = model.plan.scale.inverse(windows.value)
    days, has_crossed = beyond_since(line, windows.offsets, windows.years * DAYS_A_YEAR, value)
    origin = _some_origins(windows.offsets, ~has_crossed, seed=seed)
    owner = windows.patient_index[origin]
    horizons = np.array(horizons_days) / DAYS_A_YEAR
    repeated = np.repeat(origin, len(horizons))
    ahead = np.tile(horizons, len(origin))
    point, spread = held.ask(repeated, ahead)
    below = percentile_of_line(line, model.plan.scale, model.calibration, point, spread, ahead)
    shape = (len(origin), len(horizons))
    risk = crossing_risk(bare, below.reshape(shape), horizons, days[origin])
    crossing = np.full(len(windows.offsets) - 1, np.inf)
    crossed_rows = np.flatnonzero(has_crossed)[::-1]
    crossing[windows.patient_index[crossed_rows]] = windows.years[crossed_rows]
    end = windows.years[windows.offsets[1:][owner] - 1]
    until = windows.years[origin][:, None] + horizons
    followed = (until <= end[:, None] + 1e-9).ravel()
    happened = crossing[owner][:, None] <= until
    return RiskRows(
        risk=risk.ravel()[followed],
        distance=_distance(line, model, windows.value[repeated])[followed],
        horizon=ahead[followed],
        happened=happened.ravel()[followed],
        fold=held.fold_of_patient[windows.patient_index[repeated]][followed],
        patient=windows.patient_index[repeated][followed],
    )


def fit_calibration(rows: RiskRows) -> RiskCalibration:
    """The logistic map, and on folds that it was not fitted to how good its risks are.

    Beside them stands a logistic regression on the last value and the horizon alone.
    """
    num_events = int(rows.happened.sum())
    if min(num_events, len(rows.happened) - num_events) < FEWEST_EVENTS:
        return RiskCalibration(None, len(rows.happened), num_events, {})
    features = risk_features(rows.risk, rows.distance, rows.horizon)
    ours, plain = np.empty(len(rows.risk)), np.empty(len(rows.risk))
    for fold in np.unique(rows.fold):
        held_out = rows.fold == fold
        for columns, result in (((0, 1, 2, 3), ours), ((0, 2, 3), plain)):
            weights = _logistic(features[~held_out][:, columns], rows.happened[~held_out])
            result[held_out] = expit(features[held_out][:, columns] @ weights)
    measures = {
        "brier": brier(ours, rows.happened),
        "brier_last_value": brier(plain, rows.happened),
        "brier_simulated": brier(rows.risk, rows.happened),
        "calibration_error": calibration_error(ours, rows.happened),
        "calibration_error_simulated": calibration_error(rows.risk, rows.happened),
    }
    weights = _logistic(features, rows.happened)
    return RiskCalibration(weights, len(rows.happened), num_events, measures)


def brier(risk: Floats, happened: Flags) -> float:
    """Mean squared difference of risk and outcome (Brier, 1950)."""
    return float(np.mean((risk - happened) ** 2))


def calibration_error(risk: Floats, happened: Flags, *, num_bins: int = 10) -> float:
    """Expected calibration error over bins with equally many rows each."""
    parts = np.array_split(np.argsort(risk, kind="stable"), num_bins)
    gaps = [
        abs(risk[part].mean() - happened[part].mean()) * len(part) for part in parts if len(part)
    ]
    return float(sum(gaps) / len(risk))


def _logistic(features: Floats, happened: Flags) -> Floats:
    try:
        from sklearn.linear_model import LogisticRegression
    except ImportError:
        raise MissingExtraError("scikit-learn", extra="forecast") from None
    if happened.all() or not happened.any():
        share = np.clip(happened.mean(), 1e-3, 1 - 1e-3)
        return np.append(np.log(share / (1 - share)), np.zeros(features.shape[1] - 1))
    fitted = LogisticRegression(C=100.0, max_iter=500).fit(features[:, 1:], happened)
    return np.append(fitted.intercept_, fitted.coef_[0])


def _distance(line: Line, model: CodeForecaster, scaled: Floats) -> Floats:
    return scaled - model.plan.scale.forward(np.array([line.value]))[0]


def _some_origins(offsets: Integers, usable: Flags, *, seed: int) -> Integers:
    """A few usable rows of each patient, drawn at random."""
    rows = np.flatnonzero(usable)
    rows = rows[np.random.default_rng(seed).permutation(len(rows))]
    owner = np.searchsorted(offsets, rows, side="right") - 1
    order = np.argsort(owner, kind="stable")
    rank = np.arange(len(order)) - np.searchsorted(owner[order], owner[order])
    return np.sort(rows[order[rank < _ORIGINS_A_PATIENT]])

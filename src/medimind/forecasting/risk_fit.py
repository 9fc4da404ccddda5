"""Risk models from forecasts on unseen patients: courses, calibration, and how good they are."""

from __future__ import annotations

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit

from medimind.config.forecast_models import LineConfig
from medimind.errors import ConfigError, MissingExtraError
from medimind.forecasting.crossfit import OutOfFold
from medimind.forecasting.forecaster import CodeForecaster
from medimind.forecasting.records.table import DAYS_A_YEAR, Flags, Floats
from medimind.forecasting.risk import (
    Line,
    LineModel,
    RiskCalibration,
    draw_courses,
    error_correlation,
    risk_features,
)
from medimind.forecasting.risk_rows import RiskRows, rows_at, rows_by

FEWEST_EVENTS = 30
"""With fewer on either side risks are simulated, not calibrated, and marked."""

# How firmly weights are held to those of the simulated risk as it is, and the share of what they
# then are: of those tried the best on unseen patients (docs/notes/forecast_intervals.md).
_FIRMNESS, _SHARES = 100.0, (2 / 3, 1.0)
# The last value keeps its share unless the simulation alone errs less by more than this.
_CLEARLY = 1.02
_MOST_GRID_TIMES = 24


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


def fit_calibration(rows: RiskRows) -> RiskCalibration:
    """The logistic map, and on folds that it was not fitted to how good its risks are.

    Its weights are two thirds the held simulation's and one third the last value's, or the former
    alone where those folds say so. Beside its risks stand those of a logistic regression on the
    last value and the horizon alone.
    """
    num_events = int(rows.happened.sum())
    if min(num_events, len(rows.happened) - num_events) < FEWEST_EVENTS:
        return RiskCalibration(None, len(rows.happened), num_events, {})
    features = risk_features(rows.risk, rows.distance, rows.horizon)
    by_share = {share: np.empty(len(rows.risk)) for share in (*_SHARES, 0.0)}
    for fold in np.unique(rows.fold):
        held_out = rows.fold == fold
        pair = _weights(features[~held_out], rows.happened[~held_out])
        for share, risk in by_share.items():
            risk[held_out] = expit(features[held_out] @ _mean(pair, share))
    mixed, alone = (brier(by_share[share], rows.happened) for share in _SHARES)
    share = _SHARES[int(_CLEARLY * alone < mixed)]
    measures = {
        "brier": brier(by_share[share], rows.happened),
        "brier_last_value": brier(by_share[0.0], rows.happened),
        "brier_simulated": brier(rows.risk, rows.happened),
        "calibration_error": calibration_error(by_share[share], rows.happened),
        "calibration_error_simulated": calibration_error(rows.risk, rows.happened),
    }
    weights = _mean(_weights(features, rows.happened), share)
    return RiskCalibration(weights, len(rows.happened), num_events, measures)


def _mean(pair: tuple[Floats, Floats], share: float) -> Floats:
    return share * pair[0] + (1 - share) * pair[1]


def _weights(features: Floats, happened: Flags) -> tuple[Floats, Floats]:
    """(4,) Weights that correct the simulation, and (4,) of the last value and the horizon alone.

    Few patients tell either only roughly, and a mean of both errs less.
    """
    last_value = np.zeros(4)
    last_value[[0, 2, 3]] = _logistic(features[:, [0, 2, 3]], happened)
    return _near_simulated(features, happened), last_value


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


def _near_simulated(features: Floats, happened: Flags) -> Floats:
    """Logistic regression whose weights are drawn to those of the simulated risk as it is.

    The intercept is free; each other weight costs half its squared distance times the firmness.
    """
    as_it_is = np.array([0.0, 1.0, 0.0, 0.0])

    def loss(weights: Floats) -> tuple[float, Floats]:
        linear, pull = features @ weights, _FIRMNESS * (weights - as_it_is)
        pull[0] = 0.0
        likelihood = np.logaddexp(0.0, linear).sum() - linear[happened].sum()
        gradient = features.T @ (expit(linear) - happened) + pull
        return float(likelihood + 0.5 * pull @ (weights - as_it_is)), gradient

    found = minimize(loss, as_it_is, jac=True, method="L-BFGS-B")
    return np.asarray(found.x, dtype=np.float64)


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

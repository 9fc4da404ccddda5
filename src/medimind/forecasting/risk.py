"""The risk of lying beyond a line at a horizon, and of having crossed it for good by then.

At a horizon the risk is read off the conformal predictive distribution. By a horizon it is counted
over simulated courses: at each time of a grid a course is a percentile of that time's distribution,
and percentiles of neighbouring times go together as the errors on unseen patients did. A course is
beyond the line where its percentile lies beyond that of the line itself; so all patients share one
table of percentiles, and only the line's percentiles are the patient's own.

Both risks are then calibrated on patients that the models had not seen.

Legend: ``P`` patients, ``H`` horizons, ``G`` times of the grid, ``S`` simulated courses.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from scipy.special import expit, logit, ndtr, ndtri

from medimind.forecasting.conformal import PERCENTILES, Calibration
from medimind.forecasting.records.table import Flags, Floats, Integers
from medimind.forecasting.scale import Scale

_SURE = 1e-4
"""Risks are never put nearer to 0 or 1 than this."""

_BLOCK = 1 << 22


@dataclass(frozen=True, slots=True)
class Line:
    """A value whose crossing matters; see `config.forecast_models.LineConfig`."""

    name: str
    code: str
    value: float
    unit: str
    side: str
    confirm_days: float

    def is_beyond(self, value: Floats) -> Flags:
        """Whether values lie on the side of the risk."""
        return value < self.value if self.side == "below" else value >= self.value


@dataclass(frozen=True, slots=True, eq=False)
class RiskCalibration:
    """A logistic map from what was simulated to what happened.

    Attributes:
        weights: Of 1, the simulated risk's logit, the last value's distance to the line and the
            logarithm of the horizon; ``None`` where too few crossed to fit it.
        num_rows: Origins and horizons that it was fitted to.
        num_events: Those of them that crossed.
        measures: Brier score and the like, on unseen patients.
    """

    weights: Floats | None
    num_rows: int
    num_events: int
    measures: Mapping[str, float]

    def apply(self, risk: Floats, distance: Floats, horizon_years: Floats) -> Floats:
        """Calibrated risks of any shape."""
        if self.weights is None:
            return np.clip(risk, 0.0, 1.0)
        return expit(risk_features(risk, distance, horizon_years) @ self.weights)


@dataclass(frozen=True, slots=True, eq=False)
class LineModel:
    """All that the risk of one line is made from.

    Attributes:
        line: The line.
        grid_years: (G,) Times at which courses are simulated.
        course_SG: (S, G) Percentiles (0 to 1) of each course.
        at: Calibration of the risk at a horizon.
        by: Calibration of the risk by a horizon.
    """

    line: Line
    grid_years: Floats
    course_SG: Floats
    at: RiskCalibration
    by: RiskCalibration


def risk_features(risk: Floats, distance: Floats, horizon_years: Floats) -> Floats:
    """(..., 4) What calibration and its fit look at."""
    return np.stack(
        np.broadcast_arrays(
            1.0,
            logit(np.clip(risk, _SURE, 1 - _SURE)),
            np.clip(distance, -6.0, 6.0),
            np.log(np.maximum(horizon_years, 1e-3)),
        ),
        axis=-1,
    )


def percentile_of_line(
    line: Line,
    scale: Scale,
    calibration: Calibration,
    point: Floats,
    spread: Floats,
    horizon_years: Floats,
) -> Floats:
    """(R,) Probability that the value lies below the line, from the predictive distribution."""
    score = (scale.forward(np.array([line.value]))[0] - point) / spread
    table_RQ = calibration.percentiles(horizon_years)
    # A little tilt keeps neighbouring percentiles apart where few errors made them equal.
    table_RQ = table_RQ + 1e-9 * np.arange(table_RQ.shape[1])
    above = np.sum(table_RQ <= score[:, None], axis=1)
    num = len(PERCENTILES)
    high = np.clip(above, 1, num - 1)
    rows = np.arange(len(score))
    left, right = table_RQ[rows, high - 1], table_RQ[rows, high]
    share = np.clip((score - left) / (right - left), 0.0, 1.0)
    inside = (PERCENTILES[high - 1] + share * (PERCENTILES[high] - PERCENTILES[high - 1])) / 100
    # Beyond the outermost percentiles the tail fades with the distance, on the table's own measure.
    width = table_RQ[:, num - 4] - table_RQ[:, 3] + 1e-9
    tail = PERCENTILES[0] / 100
    lowest = tail * np.exp(-3.3 * (table_RQ[:, 0] - score) / width)
    highest = 1 - tail * np.exp(-3.3 * (score - table_RQ[:, -1]) / width)
    return np.where(above == 0, lowest, np.where(above == num, highest, inside))


def draw_courses(
    grid_years: Floats, *, alike: float, reach_years: float, num_courses: int, seed: int
) -> Floats:
    """(S, G) Percentiles of simulated courses, uniform at each time.

    Errors at two times have the correlation ``alike * exp(-distance / reach_years)``; what is left
    is each visit's own. Each time's percentiles are evenly spread, so the risk at a time is exact.
    """
    distance = np.abs(grid_years[:, None] - grid_years[None, :])
    cov = alike * np.exp(-distance / max(reach_years, 1e-6))
    np.fill_diagonal(cov, 1.0 + 1e-9)
    draw = np.random.default_rng(seed).standard_normal((num_courses, len(grid_years)))
    course = draw @ np.linalg.cholesky(cov).T
    rank = np.argsort(np.argsort(course, axis=0), axis=0)
    return (rank + 0.5) / num_courses


def error_correlation(
    score: Floats, origin: Integers, horizon_years: Floats, *, most_pairs: int = 200_000
) -> tuple[float, float]:
    """How errors (R,) from one origin at two horizons go together: ``alike`` and ``reach_years``.

    Scores are made normal by their ranks; the products of pairs are fitted by
    ``alike * exp(-distance / reach)`` over a grid of both.
    """
    rank = np.argsort(np.argsort(score))
    normal = ndtri((rank + 0.5) / len(score))
    order = np.lexsort((horizon_years, origin))
    products, distances = [], []
    for step in (1, 2, 3):
        one, other = order[:-step], order[step:]
        same = origin[one] == origin[other]
        products.append((normal[one] * normal[other])[same])
        distances.append((horizon_years[other] - horizon_years[one])[same])
    product, distance = np.concatenate(products), np.concatenate(distances)
    if len(product) < 30:
        return 0.5, 1.0
    product, distance = product[:most_pairs], distance[:most_pairs]
    best = (np.inf, 0.5, 1.0)
    typical = float(np.median(distance)) or 1.0
    for reach in typical * np.geomspace(0.3, 100, 12):
        shape = np.exp(-distance / reach)
        alike = float(np.clip(np.sum(product * shape) / np.sum(shape**2), 0.0, 0.98))
        loss = float(np.mean((product - alike * shape) ** 2))
        if loss < best[0]:
            best = (loss, alike, reach)
    return best[1], best[2]


def crossing_risk(
    model: LineModel,
    below_PH: Floats,
    horizons_years: Floats,
    begun_days: Floats,
) -> Floats:
    """(P, H) Share of courses that have crossed the line, confirmed, by each horizon.

    Args:
        model: The line's model.
        below_PH: Probability of lying below the line at each horizon.
        horizons_years: (H,) Rising.
        begun_days: (P,) Days, up to the last visit, since values have been beyond the line without
            a break; NaN where the last value is not beyond it.
    """
    line, grid = model.line, model.grid_years
    beyond_PH = below_PH if line.side == "below" else 1 - below_PH
    beyond_PG = _onto_grid(beyond_PH, horizons_years, grid)
    course_GS = model.course_SG.T if line.side == "below" else 1 - model.course_SG.T
    last = np.searchsorted(grid, horizons_years + 1e-9, side="right") - 1
    result = np.zeros(below_PH.shape)
    rows = max(1, _BLOCK // course_GS.shape[1])
    for start in range(0, len(below_PH), rows):
        part = slice(start, start + rows)
        result[part] = _count_crossings(
            beyond_PG[part], course_GS, grid, begun_days[part], line, last
        )
    return result


def _onto_grid(beyond_PH: Floats, horizons_years: Floats, grid_years: Floats) -> Floats:
    """Between horizons the probability's normal quantile is linear in time."""
    normal = ndtri(np.clip(beyond_PH, 1e-6, 1 - 1e-6))
    right = np.clip(np.searchsorted(horizons_years, grid_years), 0, len(horizons_years) - 1)
    left = np.maximum(right - 1, 0)
    width = horizons_years[right] - horizons_years[left]
    share = np.where(
        width > 0, (grid_years - horizons_years[left]) / np.where(width > 0, width, 1.0), 0.0
    )
    share = np.clip(share, 0.0, 1.0)
    return ndtr(normal[:, left] * (1 - share) + normal[:, right] * share)


def _count_crossings(
    beyond_PG: Floats,
    course_GS: Floats,
    grid_years: Floats,
    begun_days: Floats,
    line: Line,
    last_H: Integers,
) -> Floats:
    num_patients, num_courses = len(beyond_PG), course_GS.shape[1]
    shape = (num_patients, num_courses)
    # Days since a course has been beyond the line without a break; below 0: it is not.
    begun = np.where(np.isnan(begun_days), -1.0, begun_days).astype(np.float32)
    run = np.broadcast_to(begun[:, None], shape).copy()
    has_crossed = np.zeros(shape, dtype=bool)
    counted = np.zeros((num_patients, len(last_H)))
    steps = np.diff(grid_years, prepend=0.0) * 365.25
    for index, days in enumerate(steps):
        is_beyond = course_GS[index] < beyond_PG[:, index, None]
        run = np.where(is_beyond, np.where(run >= 0, run + np.float32(days), 0), np.float32(-1))
        has_crossed |= is_beyond & (run >= line.confirm_days - 0.5)
        for column in np.flatnonzero(last_H == index):
            counted[:, column] = has_crossed.mean(axis=1)
    return counted


def beyond_since(
    line: Line, offsets: Integers, time_days: Floats, value: Floats
) -> tuple[Floats, Flags]:
    """How long each measurement's patient has been beyond the line, and whether for good.

    Returns:
        (M,) days beyond it without a break, NaN where the measurement is not beyond it; (M,)
        whether the line had been crossed by then as its rule of confirmation has it.
    """
    is_beyond = line.is_beyond(value)
    first = np.zeros(len(value), dtype=bool)
    first[offsets[:-1][np.diff(offsets) > 0]] = True
    starts_run = is_beyond & (first | ~np.concatenate(([False], is_beyond[:-1])))
    began = np.maximum.accumulate(np.where(starts_run, np.arange(len(value)), 0))
    days = np.where(is_beyond, time_days - time_days[began], np.nan)
    confirmed = is_beyond & (days >= line.confirm_days - 0.5)
    count = np.cumsum(confirmed)
    before = np.where(first, count - confirmed, 0)
    has_crossed = count - np.maximum.accumulate(before) > 0
    return days, has_crossed


def summary(calibration: RiskCalibration) -> dict[str, float | int | bool]:
    """What a report says of a risk."""
    counts: Mapping[str, float | int | bool] = {
        "is_calibrated": calibration.weights is not None,
        "num_rows": calibration.num_rows,
        "num_events": calibration.num_events,
    }
    return {**counts, **calibration.measures}

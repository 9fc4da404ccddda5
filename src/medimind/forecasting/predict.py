"""Forecasts from a fitted forecaster, for all patients of some records at once. Needs numpy only.

Legend: ``P`` patients, ``H`` horizons, ``K = P * H`` rows of one code, ``Q`` percentiles.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from medimind.errors import DataError
from medimind.forecasting.conformal import PERCENTILES
from medimind.forecasting.events import EventModel, landmark_columns
from medimind.forecasting.forecast import (
    BEFORE,
    CONFIRMED,
    FEW_VISITS,
    LEVELS_PERCENT,
    NO_MEASUREMENT,
    SINCE,
    SUFFICIENT,
    TOO_FAR,
    Forecasts,
    Risks,
)
from medimind.forecasting.forecaster import CodeForecaster, Forecaster, point_and_spread
from medimind.forecasting.records.table import DAYS_A_YEAR, Floats, Integers, Records
from medimind.forecasting.records.units import is_same_unit
from medimind.forecasting.risk import (
    LineModel,
    beyond_since,
    crossing_risk,
    percentile_of_line,
)
from medimind.forecasting.windows import make_windows


@dataclass(frozen=True, slots=True, eq=False)
class CodeOutlook:
    """One code's forecasts (P, H) on the models' scale, which risks are made from.

    Attributes:
        point: Forecast; NaN for a patient without a measurement.
        spread: Expected size of its error.
        from_measurement_years: (P, H) From the code's last measurement to the forecast's time.
        num_visits: (P,) Measurements of the code.
    """

    point: Floats
    spread: Floats
    from_measurement_years: Floats
    num_visits: Integers

    def at(self, columns: Integers) -> CodeOutlook:
        """The same at some of the horizons."""
        return CodeOutlook(
            self.point[:, columns],
            self.spread[:, columns],
            self.from_measurement_years[:, columns],
            self.num_visits,
        )


def predict(
    forecaster: Forecaster, records: Records, *, horizons_days: Sequence[float] | None = None
) -> tuple[Forecasts, Risks]:
    """Every code, line and event at every horizon, for every patient of the records.

    Values are asked for at ``horizons_days``, risks at the forecaster's own horizons, as they were
    calibrated there.

    Raises:
        DataError: If a code is in another unit than the forecaster learned it in.
    """
    _check_units(forecaster, records)
    own = np.array(forecaster.horizons_days, dtype=np.float64)
    asked = np.unique(np.concatenate([own, np.array(horizons_days or own, dtype=np.float64)]))
    wanted = np.flatnonzero(np.isin(asked, horizons_days or own))
    last_visit = last_visits(records)
    parts, risks = [], []
    for index, (code, model) in enumerate(forecaster.codes.items()):
        outlook = code_outlook(model, records, last_visit, asked)
        parts.append(_code_rows(model, outlook.at(wanted), forecaster.min_visits, index))
        at_own = outlook.at(np.flatnonzero(np.isin(asked, own)))
        risks += [
            line_risk(line, model, at_own, records, last_visit, own)
            for line in forecaster.lines
            if line.line.code == code
        ]
    names = [line.line.name for code in forecaster.codes for line in forecaster.lines
             if line.line.code == code]  # fmt: skip
    for event in forecaster.events.values():
        risks.append(event_risk(event, forecaster, records, last_visit, own))
        names.append(event.name)
    forecasts = _forecasts(forecaster, records, last_visit, asked[wanted], parts)
    return forecasts, _risks(records, own, names, risks)


def _check_units(forecaster: Forecaster, records: Records) -> None:
    # Codes that the project knows were converted on the way in; others are as the source has them.
    for code, model in forecaster.codes.items():
        if code in records.codes and not is_same_unit(records.unit_of(code), model.unit):
            raise DataError(
                f"{code} is in {records.unit_of(code)}, the forecaster learned it in {model.unit}",
                fix=f"Give its values in {model.unit}",
            )


def _forecasts(
    forecaster: Forecaster,
    records: Records,
    last_visit: Floats,
    horizons: Floats,
    parts: Sequence[tuple[Floats, Floats, Floats, Integers, Integers]],
) -> Forecasts:
    num_patients, num_horizons, count = records.num_patients, len(horizons), len(parts)
    patient = np.repeat(np.arange(num_patients), num_horizons)
    horizon = np.tile(horizons, num_patients)
    return Forecasts(
        patients=records.patients,
        codes=tuple(forecaster.codes),
        units=tuple(model.unit for model in forecaster.codes.values()),
        patient_index=np.tile(patient, count),
        code_index=np.repeat(np.arange(count), num_patients * num_horizons),
        horizon_days=np.tile(horizon, count),
        time_days=np.tile(last_visit[patient] + horizon, count),
        value=np.concatenate([part[0] for part in parts]),
        low_KL=np.concatenate([part[1] for part in parts]),
        high_KL=np.concatenate([part[2] for part in parts]),
        evidence=np.concatenate([part[3] for part in parts]),
        num_visits=np.concatenate([part[4] for part in parts]),
    )


def _risks(
    records: Records,
    horizons: Floats,
    names: Sequence[str],
    parts: Sequence[tuple[Floats, Floats, Integers]],
) -> Risks:
    num_patients, num_horizons, count = records.num_patients, len(horizons), len(parts)
    return Risks(
        patients=records.patients,
        names=tuple(names),
        patient_index=np.tile(np.repeat(np.arange(num_patients), num_horizons), count),
        name_index=np.repeat(np.arange(count), num_patients * num_horizons),
        horizon_days=np.tile(np.tile(horizons, num_patients), count),
        at=np.concatenate([np.zeros(0), *(at.ravel() for at, _, _ in parts)]),
        by=np.concatenate([np.zeros(0), *(by.ravel() for _, by, _ in parts)]),
        state=np.repeat(
            np.concatenate([np.zeros(0, np.int64), *(state for _, _, state in parts)]),
            num_horizons,
        ),
    )


def line_risk(
    model: LineModel,
    code: CodeForecaster,
    outlook: CodeOutlook,
    records: Records,
    last_visit: Floats,
    horizons_days: Floats,
) -> tuple[Floats, Floats, Integers]:
    """(P, H) Risk at and (P, H) by each horizon, and (P,) where the patient stands now."""
    shape = outlook.point.shape
    at, by = np.full(shape, np.nan), np.full(shape, np.nan)
    state = np.zeros(shape[0], dtype=np.int64)
    known = np.flatnonzero(outlook.num_visits > 0)
    if len(known) == 0:
        return at, by, state
    line, horizons = model.line, horizons_days / DAYS_A_YEAR
    series = records.series(line.code)
    days, has_crossed = beyond_since(line, series.offsets, series.time_days, series.value)
    last = series.offsets[1:][known] - 1
    ahead = outlook.from_measurement_years[known]
    below = percentile_of_line(
        line,
        code.plan.scale,
        code.calibration,
        outlook.point[known].ravel(),
        outlook.spread[known].ravel(),
        ahead.ravel(),
    ).reshape(ahead.shape)
    # Since the last measurement nothing was seen: what held then is taken to hold still.
    begun = days[last] + (last_visit[known] - series.time_days[last])
    value = code.plan.scale.forward(np.append(series.value[last], line.value))
    distance = (value[:-1] - value[-1])[:, None]
    beyond = below if line.side == "below" else 1 - below
    at[known] = model.at.apply(beyond, distance, horizons)
    crossed = np.maximum.accumulate(
        model.by.apply(crossing_risk(model, below, horizons, begun), distance, horizons), axis=1
    )
    crossed[has_crossed[last]] = np.nan
    by[known] = crossed
    state[known] = np.where(
        has_crossed[last], CONFIRMED, np.where(np.isnan(days[last]), BEFORE, SINCE)
    )
    return at, by, state


def event_risk(
    event: EventModel,
    forecaster: Forecaster,
    records: Records,
    last_visit: Floats,
    horizons_days: Floats,
) -> tuple[Floats, Floats, Integers]:
    """As `line_risk`, of an event, from what was known at the last visit."""
    plans = {code: forecaster.codes[code].plan for code in event.codes}
    everyone = np.arange(records.num_patients)
    columns = landmark_columns(records, plans, event.codes, everyone, last_visit)
    by = event.risk(columns, horizons_days / DAYS_A_YEAR)
    by[np.diff(records.offsets) == 0] = np.nan
    return np.full(by.shape, np.nan), by, np.zeros(len(by), dtype=np.int64)


def last_visits(records: Records) -> Floats:
    """(P,) Time of each patient's last measurement of any code; 0 for a patient without any."""
    last = np.zeros(records.num_patients)
    has_rows = np.diff(records.offsets) > 0
    last[has_rows] = records.time_days[records.offsets[1:][has_rows] - 1]
    return last


def code_outlook(
    model: CodeForecaster, records: Records, last_visit: Floats, horizons_days: Floats
) -> CodeOutlook:
    """Forecasts of one code, each from the patient's last measurement of it."""
    windows = make_windows(records, model.plan)
    num_visits = np.diff(windows.offsets)
    shape = (records.num_patients, len(horizons_days))
    known = np.flatnonzero(num_visits > 0)
    rows = windows.offsets[1:][known] - 1
    elapsed = last_visit[known] / DAYS_A_YEAR - windows.years[rows]
    ahead = elapsed[:, None] + horizons_days[None, :] / DAYS_A_YEAR
    origin = np.repeat(rows, shape[1])
    point, spread = np.full(shape, np.nan), np.full(shape, np.nan)
    from_measurement = np.full(shape, np.nan)
    if len(known):
        some_point, some_spread = point_and_spread(model.point, windows, origin, ahead.ravel())
        point[known] = some_point.reshape(ahead.shape)
        spread[known] = some_spread.reshape(ahead.shape)
        from_measurement[known] = ahead
    return CodeOutlook(point, spread, from_measurement, num_visits)


def _code_rows(
    model: CodeForecaster, outlook: CodeOutlook, min_visits: int, index: int
) -> tuple[Floats, Floats, Floats, Integers, Integers]:
    """Median, lower and upper ends, evidence and visits of one code's rows (K,)."""
    point, spread = outlook.point.ravel(), outlook.spread.ravel()
    ahead = outlook.from_measurement_years.ravel()
    num_horizons = outlook.point.shape[1]
    num_visits = np.repeat(outlook.num_visits, num_horizons)
    is_known = num_visits > 0
    years = np.where(is_known, ahead, 1.0)
    inverse = model.plan.scale.inverse

    def at(percentile: float) -> Floats:
        score = model.calibration.multiplier(years, percentile)
        population = model.population[int(np.argmin(np.abs(PERCENTILES - percentile)))]
        return np.where(is_known, inverse(point + spread * score), population)

    value = np.where(is_known, inverse(point), model.population[len(PERCENTILES) // 2])
    low = np.column_stack([at((100 - level) / 2) for level in LEVELS_PERCENT])
    high = np.column_stack([at((100 + level) / 2) for level in LEVELS_PERCENT])
    # An interval of few errors may lie beside the point forecast; it must not leave it outside.
    low, high = np.minimum(low, value[:, None]), np.maximum(high, value[:, None])
    evidence = np.full(len(value), SUFFICIENT)
    evidence[num_visits < min_visits] = FEW_VISITS
    evidence[years > 1.001 * model.calibration.longest_years] = TOO_FAR
    evidence[~is_known] = NO_MEASUREMENT
    return value, low, high, evidence, num_visits

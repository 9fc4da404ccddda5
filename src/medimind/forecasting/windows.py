"""What was known at each visit: every measurement of a code as an origin of forecasts.

Legend of shapes: ``M`` measurements of the code, ``F`` features, ``R`` pairs of an origin and a
later measurement, ``P`` patients. Values are on the models' scale (`scale.Scale`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from medimind.forecasting.records.table import DAYS_A_YEAR, Floats, Integers, Records, Series
from medimind.forecasting.scale import Scale, choose_scale
from medimind.forecasting.visits import CodeVisits, visits_of

RECENT = (2, 3, 5)
"""Numbers of latest measurements of which a trend is taken."""

_MAX_LEVELS = 8


@dataclass(frozen=True, slots=True)
class FeaturePlan:
    """Which features there are, so that prediction makes those of training.

    Attributes:
        code: The code that is forecast.
        scale: Its scale.
        companions: Other codes with their scales; their latest values are features.
        numbers: Covariates that are numbers.
        levels: Covariate -> its texts; each but the first becomes a column of 0 and 1.
        course_codes: Codes whose visits go along with the windows; none for most models.
    """

    code: str
    scale: Scale
    companions: Mapping[str, Scale] = field(default_factory=dict)
    numbers: tuple[str, ...] = ()
    levels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    course_codes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Windows:
    """History at each measurement of a code, that measurement included.

    Attributes:
        patient_index: (M,) Never falling.
        offsets: (P + 1,) Rows of patient ``i`` are ``offsets[i]:offsets[i + 1]``.
        years: (M,) The patient's clock.
        value: (M,) The measurement, scaled.
        mean: (M,) Mean of the history.
        recent_slope: (M, len(RECENT)) Change a year over the latest measurements; 0 if only one.
        static_MS: (M, S) Covariates, unknown ones NaN.
        names: Names of the features.
        features_MF: (M, F) Features of trees.
        visits: Visits of ``FeaturePlan.course_codes``, where there are such.
    """

    patient_index: Integers
    offsets: Integers
    years: Floats
    value: Floats
    mean: Floats
    recent_slope: Floats
    static_MS: Floats
    names: tuple[str, ...]
    features_MF: Floats
    visits: CodeVisits | None = None


def plan_features(records: Records, code: str) -> FeaturePlan:
    """The features for one code, as far as these records have something to make them of."""
    scales = {
        other: choose_scale(records.series(other).value)
        for other in records.codes
        if len(records.series(other).value)
    }
    numbers, levels = [], {}
    for name, column in records.covariates.items():
        if column.dtype.kind == "f":
            if np.nanstd(column) > 0 if np.isfinite(column).any() else False:
                numbers.append(name)
            continue
        found = sorted({str(text) for text in column} - {""})
        if 2 <= len(found) <= _MAX_LEVELS:
            levels[name] = tuple(found)
    return FeaturePlan(
        code=code,
        scale=scales[code],
        companions={other: scale for other, scale in scales.items() if other != code},
        numbers=tuple(numbers),
        levels=levels,
    )


def make_windows(records: Records, plan: FeaturePlan) -> Windows:
    """Every measurement of the plan's code with its history."""
    series = records.series(plan.code)
    value, years = plan.scale.forward(series.value), series.time_days / DAYS_A_YEAR
    starts = series.offsets[series.patient_index]
    place = np.arange(len(value)) - starts
    sums = _Sums(years, value, starts)
    mean, slope, spread = sums.over(place + 1)
    recent_slope = np.stack([sums.over(np.minimum(place + 1, n))[1] for n in RECENT], axis=1)
    recent_mean = sums.over(np.minimum(place + 1, 3))[0]
    previous = np.maximum(np.arange(len(value)) - 1, starts)
    low, high = _running_extremes(value, series.offsets)
    static_MS, static_names = _static(records, plan)
    static_MS = static_MS[series.patient_index]
    columns: dict[str, Floats] = {
        "value": value,
        "years": years,
        "num_visits": np.minimum(place + 1.0, 20.0),
        "since_first": years - years[starts] if len(value) else years,
        "gap": years - years[previous],
        "change": value - value[previous],
        "from_mean": mean - value,
        "from_recent_mean": recent_mean - value,
        "from_first": value[starts] - value if len(value) else value,
        "slope": slope,
        "spread": spread,
        "from_low": value - low,
        "from_high": high - value,
    }
    for index, number in enumerate(RECENT[1:], start=1):
        columns[f"slope_{number}"] = recent_slope[:, index]
    for other, scale in plan.companions.items():
        latest, change = _companion(records, series, other, scale)
        columns[other], columns[f"{other} change"] = latest, change
    columns.update(zip(static_names, static_MS.T))
    return Windows(
        patient_index=series.patient_index,
        offsets=series.offsets,
        years=years,
        value=value,
        mean=mean,
        recent_slope=recent_slope,
        static_MS=static_MS,
        names=tuple(columns),
        features_MF=np.stack(list(columns.values()), axis=1) if columns else np.zeros((0, 0)),
        visits=visits_of(records, plan.course_codes, series) if plan.course_codes else None,
    )


def by_position(offsets: Integers) -> Iterator[tuple[Integers, Integers]]:
    """For k = 0, 1, ...: the patients that have a k-th row, and those rows."""
    counts = np.diff(offsets)
    for place in range(int(counts.max(initial=0))):
        patients = np.flatnonzero(counts > place)
        yield patients, offsets[patients] + place


def make_pairs(
    offsets: Integers, steps: Sequence[int], *, most_per_patient: int | None = None, seed: int = 0
) -> tuple[Integers, Integers]:
    """(R,) Origins and (R,) targets: rows of the same patient so many measurements apart.

    A patient with more pairs than ``most_per_patient`` gives a random choice of them.
    """
    num_rows = int(offsets[-1])
    ends = np.repeat(offsets[1:], np.diff(offsets))
    rows = np.arange(num_rows)
    origins = [rows[rows + step < ends] for step in steps]
    targets = [some + step for some, step in zip(origins, steps)]
    origin, target = np.concatenate(origins), np.concatenate(targets)
    owner = np.searchsorted(offsets, origin, side="right") - 1
    shuffled = np.random.default_rng(seed).permutation(len(origin))
    order = shuffled[np.argsort(owner[shuffled], kind="stable")]
    if most_per_patient is not None:
        sorted_owner = owner[order]
        rank = np.arange(len(order)) - np.searchsorted(sorted_owner, sorted_owner)
        order = order[rank < most_per_patient]
    order = np.sort(order)
    return origin[order], target[order]


class _Sums:
    """Means, slopes and spreads of the latest n rows of each row's patient, by running sums."""

    def __init__(self, years: Floats, value: Floats, starts: Integers) -> None:
        # Times are taken from the patient's first row, so that their squares stay small.
        self.years = years - years[starts] if len(years) else years
        # So are values: what a row gets does not depend on the patients before it.
        self.first = value[starts] if len(value) else value
        self.value = value - self.first
        t, z = self.years, self.value
        self.sums = [
            np.concatenate(([0.0], np.cumsum(part))) for part in (t, z, t * t, t * z, z * z)
        ]

    def over(self, count: Integers) -> tuple[Floats, Floats, Floats]:
        """Mean, slope a year and standard deviation over each row's latest ``count`` rows."""
        ends = np.arange(1, len(self.value) + 1)
        t, z, tt, tz, zz = (part[ends] - part[ends - count] for part in self.sums)
        mean_t, mean = t / count, z / count
        spread_t = tt / count - mean_t**2
        slope = np.zeros_like(mean)
        enough = (count > 1) & (spread_t > 1e-9)
        slope[enough] = ((tz / count - mean_t * mean)[enough]) / spread_t[enough]
        variance = zz / count - mean**2
        return mean + self.first, slope, np.sqrt(np.where(variance > 1e-9, variance, 0.0))


def _running_extremes(value: Floats, offsets: Integers) -> tuple[Floats, Floats]:
    low, high = value.copy(), value.copy()
    for place, (_, rows) in enumerate(by_position(offsets)):
        if place:
            low[rows] = np.minimum(low[rows], low[rows - 1])
            high[rows] = np.maximum(high[rows], high[rows - 1])
    return low, high


def _companion(records: Records, series: Series, code: str, scale: Scale) -> tuple[Floats, Floats]:
    """Another code's latest value at or before each row, and its change since the first."""
    other = records.series(code)
    latest = np.full(len(series.value), np.nan)
    if len(other.value) == 0:
        return latest, latest.copy()
    # One search for all patients: times of each are shifted into a range of its own.
    low = min(float(series.time_days.min(initial=0)), float(other.time_days.min()))
    high = max(float(series.time_days.max(initial=0)), float(other.time_days.max()))
    stride = (high - low) + 1.0
    key = series.patient_index * stride + (series.time_days - low)
    other_key = other.patient_index * stride + (other.time_days - low)
    found = np.searchsorted(other_key, key, side="right") - 1
    first = other.offsets[series.patient_index]
    known = found >= first
    scaled = scale.forward(other.value)
    latest[known] = scaled[found[known]]
    change = np.full(len(latest), np.nan)
    change[known] = latest[known] - scaled[first[known]]
    return latest, change


def _static(records: Records, plan: FeaturePlan) -> tuple[Floats, list[str]]:
    columns: list[Floats] = []
    names: list[str] = []
    unknown = np.full(records.num_patients, np.nan)
    for name in plan.numbers:
        column = records.covariates.get(name, unknown)
        columns.append(column.astype(np.float64) if column.dtype.kind == "f" else unknown)
        names.append(name)
    for name, levels in plan.levels.items():
        column = records.covariates.get(name)
        texts = np.full(records.num_patients, "") if column is None else column.astype(str)
        is_known = np.isin(texts, levels)
        for level in levels[1:]:
            columns.append(np.where(is_known, (texts == level).astype(np.float64), np.nan))
            names.append(f"{name} {level}")
    if not columns:
        return np.zeros((records.num_patients, 0)), names
    return np.stack(columns, axis=1), names

"""A cohort of our own making whose truth is known: kidney function in diabetes.

Each patient's expected eGFR falls from a level of its own, faster where HbA1c is high, bends a
little, and is measured with a wandering part and noise:

    eGFR(t)  = level + slope * t + curve * t^2 + wander(t) + noise
    HbA1c(t) = max(4, set point + rise * t + wander(t) + noise)
    slope    = -0.4 - 0.7 * max(HbA1c set point - 6, 0) - 1.5 * is_smoker + own

``wander`` is an Ornstein-Uhlenbeck process. Dialysis comes at a hazard that grows as eGFR falls.
Nothing here stands for a real patient or a published effect.

Legend: ``P`` patients, ``V`` visits each.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from medimind.errors import DataError, MissingExtraError
from medimind.forecasting.records.table import (
    DAYS_A_YEAR,
    Event,
    Floats,
    Records,
    make_records,
)

CODES = ("98979-8", "4548-4")
UNITS = ("mL/min/{1.73_m2}", "%")

_GFR_WANDER, _GFR_NOISE, _GFR_REACH_YEARS = 3.0, 2.5, 1.5
_SUGAR_WANDER, _SUGAR_NOISE, _SUGAR_REACH_YEARS = 0.35, 0.15, 0.8


@dataclass(frozen=True, slots=True, eq=False)
class Cohort:
    """Records and what they were made from.

    Attributes:
        records: What a hospital would see.
        level: (P,) eGFR expected at time 0.
        slope: (P,) Its change a year at time 0.
        curve: (P,) Half its second derivative.
    """

    records: Records
    level: Floats
    slope: Floats
    curve: Floats

    def expected_gfr(self, years: Floats) -> Floats:
        """(P,) The true expectation at each patient's time, without wandering and noise."""
        return np.clip(self.level + self.slope * years + self.curve * years**2, 3.0, 150.0)


def simulate_cohort(
    num_patients: int,
    *,
    num_visits: int = 8,
    same_number: bool = False,
    first_number: int = 1,
    seed: int = 0,
) -> Cohort:
    """So many patients with up to so many visits about half a year apart.

    Args:
        num_patients: ``P``.
        num_visits: Most visits of a patient; at least three.
        same_number: Give every patient all of them.
        first_number: Number in the first patient's name.
        seed: Seed of all draws.
    """
    draw = np.random.default_rng(seed)
    years_PV = np.cumsum(draw.uniform(0.3, 0.7, (num_patients, num_visits)), axis=1)
    years_PV = np.round((years_PV - years_PV[:, :1]) * DAYS_A_YEAR) / DAYS_A_YEAR
    age, is_smoker = draw.normal(58, 11, num_patients).clip(22, 90), draw.random(num_patients) < 0.3
    set_point = 5.4 + draw.gamma(2.0, 0.8, num_patients)
    level = draw.normal(78, 19, num_patients) - 0.5 * (age - 58)
    slope = -0.4 - 0.7 * np.maximum(set_point - 6, 0) - 1.5 * is_smoker
    slope = slope + draw.normal(0, 1.2, num_patients)
    curve = draw.normal(0, 0.12, num_patients)
    cohort_truth = (level.clip(15, 140), slope, curve)
    trend = cohort_truth[0][:, None] + slope[:, None] * years_PV + curve[:, None] * years_PV**2
    gfr = trend.clip(3, 150) + _wander(draw, years_PV, _GFR_WANDER, _GFR_REACH_YEARS)
    gfr = np.maximum(gfr + draw.normal(0, _GFR_NOISE, gfr.shape), 3.0)
    rise = draw.normal(0.05, 0.12, num_patients)
    sugar = set_point[:, None] + rise[:, None] * years_PV
    sugar = sugar + _wander(draw, years_PV, _SUGAR_WANDER, _SUGAR_REACH_YEARS)
    sugar = np.maximum(sugar + draw.normal(0, _SUGAR_NOISE, gfr.shape), 4.0)
    counts = np.full(num_patients, num_visits)
    if not same_number:
        counts = draw.integers(min(3, num_visits), num_visits + 1, num_patients)
    dialysis = _dialysis(draw, gfr, years_PV, counts)
    seen = np.arange(num_visits) < counts[:, None]
    owner = np.broadcast_to(np.arange(num_patients)[:, None], seen.shape)[seen]
    records = make_records(
        patients=np.array(
            [f"S{first_number + index:07d}" for index in range(num_patients)], dtype=object
        ),
        codes=CODES,
        units=UNITS,
        patient_index=np.repeat(owner, 2),
        time_days=np.repeat(np.round(years_PV[seen] * DAYS_A_YEAR), 2),
        code_index=np.tile(np.arange(2), len(owner)),
        value=np.round(np.stack([gfr[seen], sugar[seen]], axis=1).ravel().astype(np.float64), 1),
        covariates={
            "age": np.round(age),
            "smoker": np.where(is_smoker, "yes", "no").astype(object),
        },
        events={"dialysis": dialysis},
    )
    return Cohort(records, *cohort_truth)


def write_long_table(records: Records, path: Path) -> None:
    """The measurements as a long table, ``.csv`` or ``.parquet``.

    Raises:
        DataError: If it cannot be written.
    """
    try:
        import pyarrow as pa
        import pyarrow.csv as pa_csv
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError("pyarrow", extra="forecast") from None
    table = pa.table(
        {
            "patient": records.patient,
            "time": records.time_days,
            "code": records.code,
            "value": records.value,
            "unit": records.unit,
        }
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pq.write_table(table, path)
        else:
            pa_csv.write_csv(table, path)
    except OSError as problem:
        raise DataError(f"cannot write ({problem})", where=str(path)) from problem


def simulate_parts(
    num_patients: int, *, num_visits: int = 8, part: int = 100_000, seed: int = 0
) -> Iterator[Records]:
    """A large cohort piece by piece, every patient with all visits."""
    for index, start in enumerate(range(0, num_patients, part)):
        yield simulate_cohort(
            min(part, num_patients - start),
            num_visits=num_visits,
            same_number=True,
            first_number=start + 1,
            seed=seed + index,
        ).records


def _wander(
    draw: np.random.Generator, years_PV: Floats, spread: float, reach_years: float
) -> Floats:
    """Ornstein-Uhlenbeck processes at these times, in their stationary state from the start."""
    result = np.empty_like(years_PV)
    result[:, 0] = draw.normal(0, spread, len(years_PV))
    for visit in range(1, years_PV.shape[1]):
        decay = np.exp(-(years_PV[:, visit] - years_PV[:, visit - 1]) / reach_years)
        fresh = draw.normal(0, spread, len(years_PV)) * np.sqrt(1 - decay**2)
        result[:, visit] = result[:, visit - 1] * decay + fresh
    return result


def _dialysis(
    draw: np.random.Generator, gfr_PV: Floats, years_PV: Floats, counts: np.ndarray
) -> Event:
    """When dialysis began, after the last visit, or until when a patient was seen without it."""
    rows = np.arange(len(counts))
    last_years, last_gfr = years_PV[rows, counts - 1], gfr_PV[rows, counts - 1]
    hazard = 0.02 * np.exp((60 - last_gfr) / 12)
    waiting, followed = draw.exponential(1 / hazard), draw.uniform(0.2, 4.0, len(counts))
    return Event(
        time_days=np.round((last_years + np.minimum(waiting, followed)) * DAYS_A_YEAR) + 1,
        is_observed=waiting <= followed,
    )

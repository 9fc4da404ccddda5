"""What was forecast of a line and what came, on patients that the models had not seen.

Legend: ``R`` rows (an origin and a horizon), ``M`` measurements of the code.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medimind.forecasting.crossfit import OutOfFold
from medimind.forecasting.forecaster import CodeForecaster
from medimind.forecasting.records.table import DAYS_A_YEAR, Flags, Floats, Integers
from medimind.forecasting.risk import (
    Line,
    LineModel,
    beyond_since,
    crossing_risk,
    percentile_of_line,
)

# Origins that calibration looks at: a few a patient, but as many in all where patients are few.
_ORIGINS_A_PATIENT = 4
_WANTED_ORIGINS = 4000


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
        origin: (R,) Row of the windows that was forecast from.
    """

    risk: Floats
    distance: Floats
    horizon: Floats
    happened: Flags
    fold: Integers
    patient: Integers
    origin: Integers


def rows_at(bare: LineModel, model: CodeForecaster, held: OutOfFold) -> RiskRows:
    """Pairs of an origin and a later measurement, as unseen patients had them."""
    windows, line = held.windows, bare.line
    below = percentile_of_line(
        line, model.plan.scale, model.calibration, held.point, held.spread, held.horizon
    )
    value = _values(line, model, windows.value[held.target])
    return RiskRows(
        risk=below if line.side == "below" else 1 - below,
        distance=_distance(line, model, windows.value[held.origin]),
        horizon=held.horizon,
        happened=line.is_beyond(value),
        fold=held.fold_of_patient[windows.patient_index[held.origin]],
        patient=windows.patient_index[held.origin],
        origin=held.origin,
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

    Where patients are few these are all such origins, else some of each patient, drawn at random.
    Origins that were followed less far are left out whether or not they had crossed by then: to
    keep only those that crossed would overstate the risk.
    """
    windows, line = held.windows, bare.line
    value = _values(line, model, windows.value)
    days, has_crossed = beyond_since(line, windows.offsets, windows.years * DAYS_A_YEAR, value)
    num_patients = len(windows.offsets) - 1
    most = max(_ORIGINS_A_PATIENT, _WANTED_ORIGINS // max(1, num_patients))
    origin = _some_origins(windows.offsets, ~has_crossed, most=most, seed=seed)
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
        origin=repeated[followed],
    )


def _values(line: Line, model: CodeForecaster, scaled: Floats) -> Floats:
    """In the code's unit; those that lie on the line are put there, whatever rounding did."""
    is_on_line = np.abs(_distance(line, model, scaled)) < 1e-9
    return np.where(is_on_line, line.value, model.plan.scale.inverse(scaled))


def _distance(line: Line, model: CodeForecaster, scaled: Floats) -> Floats:
    return scaled - model.plan.scale.forward(np.array([line.value]))[0]


def _some_origins(offsets: Integers, usable: Flags, *, most: int, seed: int) -> Integers:
    """A few usable rows of each patient, drawn at random."""
    rows = np.flatnonzero(usable)
    rows = rows[np.random.default_rng(seed).permutation(len(rows))]
    owner = np.searchsorted(offsets, rows, side="right") - 1
    order = np.argsort(owner, kind="stable")
    rank = np.arange(len(order)) - np.searchsorted(owner[order], owner[order])
    return np.sort(rows[order[rank < most]])

"""Which errors on other patients intervals are made from, and what they held there.

A patient's last measurement, before dropping out or dying, may lie farther off than others, and
nothing known before tells that it will be the last. So intervals hold their level either over all
measurements to come, or over last ones.

Legend: ``R`` pairs of an origin and a later measurement.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medimind.config.forecast_models import IntervalsFor
from medimind.forecasting.conformal import Calibration, calibrate
from medimind.forecasting.crossfit import OutOfFold
from medimind.forecasting.records.table import Flags, Floats, Integers

_KINDS: tuple[IntervalsFor, ...] = ("visits", "last_visits")
_LEVEL_ENDS = (5.0, 95.0)


@dataclass(frozen=True, slots=True, eq=False)
class Errors:
    """Errors on unseen patients, on the models' scale.

    Attributes:
        origin: (R,) Row of the windows that was forecast from.
        target: (R,) Row that was forecast.
        horizon: (R,) Years between them.
        error: (R,) Measurement less forecast.
        spread: (R,) Expected size of it.
        owner: (R,) The patient.
    """

    origin: Integers
    target: Integers
    horizon: Floats
    error: Floats
    spread: Floats
    owner: Integers

    def calibrated(self, rows: Flags | slice = slice(None)) -> Calibration:
        """The table of these errors, or of some."""
        return calibrate(self.error[rows], self.spread[rows], self.horizon[rows], self.owner[rows])


def interval_errors(held: OutOfFold, *, wanted: IntervalsFor) -> Errors:
    """The errors of all pairs, or of those that end at a patient's last measurement.

    All pairs are a choice where a patient has many, so the others are asked for anew.
    """
    windows, origin, target = held.windows, held.origin, held.target
    point, spread, horizon = held.point, held.spread, held.horizon
    if wanted == "last_visits":
        origin, target = _last_pairs(windows.offsets, np.unique(held.target - held.origin))
        horizon = windows.years[target] - windows.years[origin]
        point, spread = held.ask(origin, horizon)
    return Errors(
        origin=origin,
        target=target,
        horizon=horizon,
        error=windows.value[target] - point,
        spread=spread,
        owner=windows.patient_index[origin],
    )


def make_intervals(
    held: OutOfFold, *, wanted: IntervalsFor
) -> tuple[Calibration, dict[str, float]]:
    """The table of intervals, and the shares of all and of last measurements that 90 % ones held.

    For the shares each fold's patients have intervals from the errors on the other folds' patients;
    there are none where all patients lie in one fold.
    """
    errors: dict[IntervalsFor, Errors] = {
        kind: interval_errors(held, wanted=kind) for kind in _KINDS
    }
    return errors[wanted].calibrated(), _coverage(errors, held.fold_of_patient, wanted=wanted)


def _coverage(
    errors: dict[IntervalsFor, Errors], fold_of_patient: Integers, *, wanted: IntervalsFor
) -> dict[str, float]:
    known = errors[wanted]
    fold = fold_of_patient[known.owner]
    is_held = {kind: np.zeros(len(one.error), dtype=bool) for kind, one in errors.items()}
    for index in np.unique(fold):
        if (fold == index).all():
            return {}
        table = known.calibrated(fold != index)
        for kind, one in errors.items():
            mine = fold_of_patient[one.owner] == index
            low, high = (
                one.spread[mine] * table.multiplier(one.horizon[mine], end) for end in _LEVEL_ENDS
            )
            is_held[kind][mine] = (low <= one.error[mine]) & (one.error[mine] <= high)
    return {kind: float(flags.mean()) for kind, flags in is_held.items()}


def _last_pairs(offsets: Integers, steps: Integers) -> tuple[Integers, Integers]:
    """(R,) Origins so many steps before patients' last rows, and (R,) those rows."""
    counts, last = np.diff(offsets), offsets[1:] - 1
    enough = [np.flatnonzero(counts > step) for step in steps]
    target = np.concatenate([last[patients] for patients in enough])
    return target - np.repeat(steps, [len(patients) for patients in enough]), target

"""Several codes' values by visit, beside the windows of one of them.

Legend: ``V`` visits, ``C`` codes, ``M`` measurements of the windows' code, ``P`` patients.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medimind.forecasting.records.table import DAYS_A_YEAR, Floats, Integers, Records, Series


@dataclass(frozen=True, slots=True, eq=False)
class CodeVisits:
    """A row per time at which a patient had any of the codes measured.

    Attributes:
        codes: Names of the columns.
        patient_index: (V,) Never falling.
        offsets: (P + 1,) Visits of patient ``i`` are ``offsets[i]:offsets[i + 1]``.
        years: (V,) The patient's clock.
        value_VC: In the codes' units; NaN where a code was not measured.
        row: (M,) The visit of each measurement of the windows' code.
    """

    codes: tuple[str, ...]
    patient_index: Integers
    offsets: Integers
    years: Floats
    value_VC: Floats
    row: Integers


def visits_of(records: Records, codes: tuple[str, ...], series: Series) -> CodeVisits:
    """The visits of these codes, and which of them are the measurements of the series."""
    visits = records.visits(codes)
    # One search for all patients: times of each are shifted into a range of its own.
    low = float(visits.time_days.min(initial=0.0))
    stride = float(visits.time_days.max(initial=0.0)) - low + 1.0
    key = visits.patient_index * stride + (visits.time_days - low)
    wanted = series.patient_index * stride + (series.time_days - low)
    return CodeVisits(
        codes=visits.codes,
        patient_index=visits.patient_index,
        offsets=visits.offsets,
        years=visits.time_days / DAYS_A_YEAR,
        value_VC=visits.value_VC,
        row=np.searchsorted(key, wanted, side="right") - 1,
    )

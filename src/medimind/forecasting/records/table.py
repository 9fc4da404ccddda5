"""Checked measurements of many patients as columns.

Legend of shapes: ``N`` rows (measurements), ``P`` patients, ``C`` codes, ``V`` visits (distinct
times of a patient), ``M`` rows of one code.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Integers = NDArray[np.integer[Any]]
Flags = NDArray[np.bool_]
Texts = NDArray[Any]

DAYS_A_YEAR = 365.25


@dataclass(frozen=True, slots=True, eq=False)
class Event:
    """Something that happens to a patient at most once, such as death.

    Attributes:
        time_days: (P,) When it happened, or until when the patient was seen without it; NaN where
            nothing is known. The same origin as the patient's measurements.
        is_observed: (P,) Whether it happened.
    """

    time_days: Floats
    is_observed: Flags


@dataclass(frozen=True, slots=True, eq=False)
class Series:
    """All measurements of one code, by patient and time.

    Attributes:
        code: The code.
        unit: Unit of every value, UCUM.
        patient_index: (M,) Index into ``Records.patients``, never falling.
        time_days: (M,) Never falling within a patient.
        value: (M,) Finite.
        offsets: (P + 1,) Rows of patient ``i`` are ``offsets[i]:offsets[i + 1]``.
    """

    code: str
    unit: str
    patient_index: Integers
    time_days: Floats
    value: Floats
    offsets: Integers


@dataclass(frozen=True, slots=True, eq=False)
class Visits:
    """The same measurements with a row per visit and a column per code.

    Attributes:
        codes: Names of the columns.
        patient_index: (V,) Index into ``Records.patients``, never falling.
        time_days: (V,) Strictly rising within a patient.
        value_VC: Values; NaN where a code was not measured at that visit.
        offsets: (P + 1,) Visits of patient ``i`` are ``offsets[i]:offsets[i + 1]``.
    """

    codes: tuple[str, ...]
    patient_index: Integers
    time_days: Floats
    value_VC: Floats
    offsets: Integers


@dataclass(frozen=True, slots=True, eq=False)
class PatientRecord:
    """One patient's rows, as views.

    Attributes:
        patient: Name.
        index: Place in ``Records.patients``.
        time_days: (n,) Never falling.
        code_index: (n,) Index into ``Records.codes``.
        value: (n,) Finite.
        covariates: The patient's own, by name: a float (NaN: unknown) or a text ("": unknown).
    """

    patient: str
    index: int
    time_days: Floats
    code_index: Integers
    value: Floats
    covariates: Mapping[str, float | str]


@dataclass(frozen=True, eq=False)
class Records:
    """Measurements that passed validation: finite, one unit per code, in order.

    Rows are sorted by patient (in the order of ``patients``), time, code. A patient has at most one
    value per code and time.

    Attributes:
        patients: (P,) Names, distinct, of dtype object.
        codes: LOINC, or a local code of the user's.
        units: UCUM unit of each code.
        patient_index: (N,) Index into ``patients``.
        time_days: (N,) Days on the patient's own clock. Its origin is what the source used as 0
            (enrolment, birth, ...), or the patient's first measurement where the source has dates.
        code_index: (N,) Index into ``codes``.
        value: (N,) In the code's unit.
        covariates: Static facts by name: (P,) of float64 (NaN: unknown) or object with texts
            ("": unknown).
        events: Events by name.
        origin_day: (P,) Date of time 0 as days since 1970-01-01; NaN where the source has no dates.
    """

    patients: Texts
    codes: tuple[str, ...]
    units: tuple[str, ...]
    patient_index: Integers
    time_days: Floats
    code_index: Integers
    value: Floats
    covariates: Mapping[str, Texts] = field(default_factory=dict)
    events: Mapping[str, Event] = field(default_factory=dict)
    origin_day: Floats | None = None

    def __post_init__(self) -> None:
        num_rows = len(self.value)
        columns = (self.patient_index, self.time_days, self.code_index)
        if any(column.shape != (num_rows,) for column in columns):
            raise AssertionError("columns differ in length")
        if len(self.codes) != len(self.units) or len(set(self.codes)) != len(self.codes):
            raise AssertionError("a code without a unit, or there twice")
        if num_rows and np.any(np.diff(self.patient_index) < 0):
            raise AssertionError("rows are not sorted by patient")
        statics = [*self.covariates.values(), *(e.time_days for e in self.events.values())]
        if any(len(column) != len(self.patients) for column in statics):
            raise AssertionError("a covariate or an event has another number of patients")

    @property
    def num_rows(self) -> int:
        """``N``."""
        return len(self.value)

    @property
    def num_patients(self) -> int:
        """``P``; patients without any row count."""
        return len(self.patients)

    @cached_property
    def offsets(self) -> Integers:
        """(P + 1,) Rows of patient ``i`` are ``offsets[i]:offsets[i + 1]``."""
        return _offsets(self.patient_index, self.num_patients)

    @property
    def patient(self) -> Texts:
        """(N,) The patient's name of each row."""
        return self.patients[self.patient_index]

    @property
    def code(self) -> Texts:
        """(N,) The code of each row."""
        return np.asarray(self.codes, dtype=object)[self.code_index]

    @property
    def unit(self) -> Texts:
        """(N,) The unit of each row."""
        return np.asarray(self.units, dtype=object)[self.code_index]

    def unit_of(self, code: str) -> str:
        """The unit of all values of that code."""
        return self.units[self.codes.index(code)]

    def by_patient(self) -> Iterator[PatientRecord]:
        """Each patient's rows, in order; a patient without rows too."""
        for index in range(self.num_patients):
            yield self.patient_record(index)

    def patient_record(self, index: int) -> PatientRecord:
        """The rows of the patient at that place."""
        rows = slice(int(self.offsets[index]), int(self.offsets[index + 1]))
        return PatientRecord(
            patient=str(self.patients[index]),
            index=index,
            time_days=self.time_days[rows],
            code_index=self.code_index[rows],
            value=self.value[rows],
            covariates={name: column[index] for name, column in self.covariates.items()},
        )

    def series(self, code: str) -> Series:
        """All values of one code; no rows where the code is not there."""
        if code in self.codes:
            rows = np.flatnonzero(self.code_index == self.codes.index(code))
            unit = self.unit_of(code)
        else:
            rows, unit = np.zeros(0, dtype=np.int64), ""
        owners = self.patient_index[rows]
        return Series(
            code=code,
            unit=unit,
            patient_index=owners,
            time_days=self.time_days[rows],
            value=self.value[rows],
            offsets=_offsets(owners, self.num_patients),
        )

    def visits(self, codes: Sequence[str] | None = None) -> Visits:
        """A row per patient and time at which any of the codes was measured."""
        chosen = self.codes if codes is None else tuple(codes)
        column_of = np.full(len(self.codes) + 1, -1, dtype=np.int64)
        for column, code in enumerate(chosen):
            if code in self.codes:
                column_of[self.codes.index(code)] = column
        columns = column_of[self.code_index]
        rows = np.flatnonzero(columns >= 0)
        owners, times = self.patient_index[rows], self.time_days[rows]
        starts = np.ones(len(rows), dtype=bool)
        starts[1:] = (np.diff(owners) != 0) | (np.diff(times) != 0)
        visit = np.cumsum(starts) - 1
        firsts = np.flatnonzero(starts)
        value_VC = np.full((len(firsts), len(chosen)), np.nan)
        value_VC[visit, columns[rows]] = self.value[rows]
        return Visits(
            codes=chosen,
            patient_index=owners[firsts],
            time_days=times[firsts],
            value_VC=value_VC,
            offsets=_offsets(owners[firsts], self.num_patients),
        )

    @property
    def num_visits(self) -> Integers:
        """(P,) Times at which anything was measured."""
        starts = np.ones(self.num_rows, dtype=bool)
        starts[1:] = (np.diff(self.patient_index) != 0) | (np.diff(self.time_days) != 0)
        return np.bincount(self.patient_index[starts], minlength=self.num_patients)

    def where(self, keep: Flags) -> Records:
        """The rows (N,) that are marked; patients stay, also those left without rows."""
        return dataclasses.replace(
            self,
            patient_index=self.patient_index[keep],
            time_days=self.time_days[keep],
            code_index=self.code_index[keep],
            value=self.value[keep],
        )

    def take(self, indices: Integers | Sequence[int]) -> Records:
        """These patients, in this order, with all that belongs to them.

        A patient taken twice would be there twice under one name, so that is an error of the
        caller.
        """
        chosen = np.asarray(indices, dtype=np.int64)
        if len(np.unique(chosen)) != len(chosen):
            raise AssertionError("a patient is taken twice")
        starts, counts = self.offsets[chosen], np.diff(self.offsets)[chosen]
        rows = np.arange(counts.sum()) + np.repeat(starts - (np.cumsum(counts) - counts), counts)
        return dataclasses.replace(
            self,
            patients=self.patients[chosen],
            patient_index=np.repeat(np.arange(len(chosen), dtype=np.int32), counts),
            time_days=self.time_days[rows],
            code_index=self.code_index[rows],
            value=self.value[rows],
            covariates={name: column[chosen] for name, column in self.covariates.items()},
            events={
                name: Event(event.time_days[chosen], event.is_observed[chosen])
                for name, event in self.events.items()
            },
            origin_day=None if self.origin_day is None else self.origin_day[chosen],
        )

    def partitions(self, num_patients: int) -> Iterator[Records]:
        """The records in pieces of at most so many whole patients."""
        for start in range(0, self.num_patients, num_patients):
            yield self.take(np.arange(start, min(start + num_patients, self.num_patients)))


def make_records(
    *,
    patients: Texts,
    codes: tuple[str, ...],
    units: tuple[str, ...],
    patient_index: Integers,
    time_days: Floats,
    code_index: Integers,
    value: Floats,
    covariates: Mapping[str, Texts] | None = None,
    events: Mapping[str, Event] | None = None,
    origin_day: Floats | None = None,
) -> Records:
    """Records from rows in any order; see `Records` for the arguments."""
    order = sorting_order(patient_index, time_days, code_index)
    if order is not None:
        patient_index, time_days = patient_index[order], time_days[order]
        code_index, value = code_index[order], value[order]
    return Records(
        patients=patients,
        codes=codes,
        units=units,
        patient_index=patient_index,
        time_days=time_days,
        code_index=code_index,
        value=value,
        covariates=covariates or {},
        events=events or {},
        origin_day=origin_day,
    )


def sorting_order(
    patient_index: Integers, time_days: Floats, code_index: Integers
) -> NDArray[np.intp] | None:
    """The stable order by patient, time, code; ``None`` where the rows are in it already."""
    same_patient = np.diff(patient_index) == 0
    same_time = same_patient & (np.diff(time_days) == 0)
    is_sorted = (
        np.all(np.diff(patient_index) >= 0)
        and np.all(np.diff(time_days)[same_patient] >= 0)
        and np.all(np.diff(code_index.astype(np.int64))[same_time] >= 0)
    )
    return None if is_sorted else np.lexsort((code_index, time_days, patient_index))


def _offsets(owners: Integers, num_patients: int) -> Integers:
    counts = np.bincount(owners, minlength=num_patients)
    return np.concatenate(([0], np.cumsum(counts))).astype(np.int64)

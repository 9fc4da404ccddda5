"""Rows as a source gives them, before anything is judged."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntFlag

import numpy as np

from medimind.forecasting.records.table import Event, Floats, Integers, Texts

MISSING = -1
"""Index of a patient, code, unit or status that a row does not name."""


class Unread(IntFlag):
    """What a reader could not read in a row; a row may have several."""

    VALUE_MISSING = 1
    VALUE_TEXT = 2
    VALUE_CENSORED = 4
    TIME_MISSING = 8
    TIME_TEXT = 16
    COMMA = 32


@dataclass(frozen=True, slots=True)
class SourceProblem:
    """Something wrong with a source outside of the rows it could give.

    Attributes:
        kind: Kind of finding.
        row: 1-based row; 0 where it belongs to no row.
        patient: Name; "" where it belongs to none.
        code: Code or column; "" where it belongs to none.
        detail: What is wrong.
        lost: Whether a row was lost by it.
    """

    kind: str
    row: int
    patient: str
    code: str
    detail: str
    lost: bool


@dataclass(frozen=True, eq=False)
class RawRows:
    """Measurements of whole patients as they were read: ``N`` rows of ``P`` patients.

    Attributes:
        where: The source.
        row: (N,) 1-based number of the row, or of the resource, in the source.
        patients: (P,) Distinct names of dtype object.
        patient: (N,) Index into ``patients``, or ``MISSING``.
        time: (N,) Days: since 1970-01-01 where ``is_dated``, else since the source's own 0; NaN
            where there is none.
        is_dated: Whether times are dates.
        codes: Distinct codes as written.
        code: (N,) Index into ``codes``, or ``MISSING``.
        value: (N,) NaN where there is none.
        units: Distinct units as written.
        unit: (N,) Index into ``units``, or ``MISSING``.
        statuses: Distinct statuses of observations.
        status: (N,) Index into ``statuses``, or ``MISSING``.
        unread: (N,) `Unread` flags.
        has_order: Whether the order of rows means anything, as in a table.
        covariates: Static facts, (P,) each.
        events: Events, (P,) each; times as in ``time``.
        birth_day: (P,) Birthday as days since 1970-01-01; NaN unknown.
        problems: What is wrong beside the rows.
    """

    where: str
    row: Integers
    patients: Texts
    patient: Integers
    time: Floats
    is_dated: bool
    codes: tuple[str, ...]
    code: Integers
    value: Floats
    units: tuple[str, ...]
    unit: Integers
    statuses: tuple[str, ...]
    status: Integers
    unread: Integers
    has_order: bool = True
    covariates: Mapping[str, Texts] = field(default_factory=dict)
    events: Mapping[str, Event] = field(default_factory=dict)
    birth_day: Floats | None = None
    problems: tuple[SourceProblem, ...] = ()

    def __post_init__(self) -> None:
        columns = (self.patient, self.time, self.code, self.unit, self.status, self.unread)
        if any(len(column) != len(self.value) for column in (self.row, *columns)):
            raise AssertionError("columns differ in length")

    @property
    def num_lost(self) -> int:
        """Rows of the source that are not here."""
        return sum(problem.lost for problem in self.problems)

    @property
    def rows_in(self) -> int:
        """Rows of the source."""
        return len(self.value) + self.num_lost


class Names:
    """Gives each distinct text the next number."""

    def __init__(self) -> None:
        self._numbers: dict[str, int] = {}

    def number(self, text: str) -> int:
        """The text's number."""
        return self._numbers.setdefault(text, len(self._numbers))

    def numbers(self, texts: Texts | list[str]) -> Integers:
        """Numbers of several texts."""
        return np.fromiter(map(self.number, texts), dtype=np.int32, count=len(texts))

    @property
    def texts(self) -> tuple[str, ...]:
        """All texts in the order of their numbers."""
        return tuple(self._numbers)

    def __len__(self) -> int:
        return len(self._numbers)

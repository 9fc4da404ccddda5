"""What validation finds: kinds, each with what to do about it, and lists of single findings."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from medimind.forecasting.records.table import Integers


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of finding.

    Attributes:
        title: What is wrong.
        fix: What to do about it.
        leaves_out: Whether the rows that it is found in are left out.
    """

    title: str
    fix: str
    leaves_out: bool = True


KINDS: Mapping[str, Kind] = {
    "row-shape": Kind("the row has another number of columns", "Quote commas within fields"),
    "not-text": Kind("bytes that are not UTF-8", "Save the file as UTF-8"),
    "header-again": Kind("the header stands among the rows", "Remove it"),
    "bad-json": Kind("a line is not JSON", "Write one resource a line"),
    "bad-resource": Kind("the resource is not valid FHIR R4", "Mend the field that is named"),
    "unknown-subject": Kind("the resource names no patient", "Give Observation.subject"),
    "absent-data": Kind("the source says why the value is absent", "Nothing: it is known missing"),
    "patient-missing": Kind("no patient", "Name the patient of the row"),
    "patient-spelling": Kind(
        "two patients whose names differ in case or spaces only",
        "Write the patient's name the same way everywhere",
        leaves_out=False,
    ),
    "identical-patients": Kind(
        "another patient has the very same measurements", "Remove the copy", leaves_out=False
    ),
    "time-missing": Kind("no time", "Give the time"),
    "time-unreadable": Kind("the time is neither a number nor a date", "Write ISO 8601 dates"),
    "time-not-finite": Kind("the time is not finite", "Give the time"),
    "time-future": Kind("the time lies in the future", "Correct the date, or set as_of"),
    "time-impossible": Kind("no life is so long", "Look at the unit of times, or the date"),
    "time-before-birth": Kind("measured before birth", "Correct the date or the birthday"),
    "time-unsorted": Kind(
        "the patient's rows go back in time here", "Nothing: they were sorted", leaves_out=False
    ),
    "after-event": Kind(
        "measured after the patient's last contact", "Correct one of both times", leaves_out=False
    ),
    "code-missing": Kind("no code", "Give the code"),
    "code-check-digit": Kind("no LOINC code: its check digit is wrong", "Correct the code"),
    "codes-identical": Kind("another code has the very same rows", "Leave one of both out"),
    "value-missing": Kind("no value", "Give the value, or leave the row out"),
    "value-text": Kind("the value is not a number", "Give a number"),
    "value-censored": Kind("the value is a limit of detection, not a number", "Give a number"),
    "value-comma": Kind("a decimal comma", "Write 1.5, not 1,5"),
    "value-not-finite": Kind("the value is NaN or infinite", "Give a finite number"),
    "value-placeholder": Kind("a number that stands for 'unknown'", "Leave the value empty"),
    "value-physiology": Kind("outside of physiology", "Correct the value or its unit"),
    "value-tenfold": Kind("a jump by 10", "Look for a shifted decimal point"),
    "value-hundredfold": Kind("a jump by 100", "Look at the unit"),
    "value-thousandfold": Kind("a jump by 1000", "Look at the unit"),
    "unit-missing": Kind("no unit", "Give the unit, or name it under units"),
    "unit-unknown": Kind("the unit is none of UCUM's", "Write the unit as UCUM does"),
    "unit-not-allowed": Kind("the code is not measured in this unit", "Correct unit or code"),
    "unit-mixed": Kind("most rows of the code have another unit", "Use one unit a code"),
    "unit-suspect": Kind(
        "all values would fit another unit", "Check the unit of the column", leaves_out=False
    ),
    "status-entered-in-error": Kind("the source took the value back", "Nothing: it was left out"),
    "status-not-final": Kind("the value is not final", "Give it again once it is"),
    "status-unknown": Kind("a status that FHIR does not know", "Use FHIR's observation-status"),
    "duplicate": Kind("the same measurement again", "Nothing: one of both was kept"),
    "conflict": Kind("two values at the same time", "Keep the right one"),
    "covariate-changes": Kind(
        "a fact that should not change changes", "Correct it; the first was kept", leaves_out=False
    ),
    "event-status": Kind(
        "a status of the event outside of its values",
        "Name it under observed or censored",
        leaves_out=False,
    ),
    "event-time": Kind("no usable time of the event", "Give its time", leaves_out=False),
    "event-changes": Kind(
        "the event has two times", "Correct it; the first was kept", leaves_out=False
    ),
    "few-visits": Kind(
        "too few visits: the forecast leans on the population",
        "Nothing: the forecast says so",
        leaves_out=False,
    ),
    "no-rows-left": Kind(
        "none of the patient's rows could be used", "See its other findings", leaves_out=False
    ),
}


COLUMNS = ("kind", "where", "row", "patient", "code", "found", "fix", "left_out")
"""Of a table of findings."""


@dataclass(frozen=True, slots=True)
class Finding:
    """One finding.

    Attributes:
        kind: Key of `KINDS`.
        where: File.
        row: 1-based row or resource of the file; 0 where it belongs to none.
        patient: Patient, or "".
        code: Code, column or event as the source writes it, or "".
        detail: What was found.
    """

    kind: str
    where: str
    row: int
    patient: str
    code: str
    detail: str

    def as_row(self) -> dict[str, Any]:
        """A row of a table."""
        known = KINDS[self.kind]
        return {
            "kind": self.kind,
            "where": self.where,
            "row": self.row,
            "patient": self.patient,
            "code": self.code,
            "found": f"{known.title}: {self.detail}" if self.detail else known.title,
            "fix": known.fix,
            "left_out": known.leaves_out,
        }


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Many findings of one kind; texts are made only when they are listed."""

    kind: str
    rows: Integers
    make: Callable[[int], Finding]

    def __iter__(self) -> Iterator[Finding]:
        return (self.make(int(row)) for row in self.rows)


@dataclass(frozen=True, slots=True, eq=False)
class Validation:
    """What validation says of a source, or of a part of it.

    Attributes:
        rows_in: Rows that were read.
        rows_kept: Rows that are in the records.
        left_out: Kind -> rows left out for it first; with ``rows_kept`` they add up to ``rows_in``.
        found: Kind -> findings.
        patients_in: Patients named.
        blocks: The findings.
    """

    rows_in: int
    rows_kept: int
    left_out: Counter[str]
    found: Counter[str]
    patients_in: int
    blocks: tuple[Block, ...]

    def __post_init__(self) -> None:
        if self.rows_in != self.rows_kept + self.left_out.total():
            raise AssertionError("rows do not add up")

    def findings(self) -> Iterator[Finding]:
        """Every finding, by kind."""
        for block in self.blocks:
            yield from block

    def __add__(self, other: Validation) -> Validation:
        return Validation(
            self.rows_in + other.rows_in,
            self.rows_kept + other.rows_kept,
            self.left_out + other.left_out,
            self.found + other.found,
            self.patients_in + other.patients_in,
            self.blocks + other.blocks,
        )

    def summary(self) -> dict[str, Any]:
        """Counts for a report."""
        return {
            "rows_in": self.rows_in,
            "rows_kept": self.rows_kept,
            "left_out": dict(sorted(self.left_out.items())),
            "found": dict(sorted(self.found.items())),
            "patients": self.patients_in,
        }


NOTHING = Validation(0, 0, Counter(), Counter(), 0, ())

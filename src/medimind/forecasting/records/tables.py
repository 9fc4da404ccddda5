"""Long and wide tables, and MEDS, as raw rows.

A long table has a row per measurement (``patient, time, code, value, unit``), a wide one a row per
visit and a column per code. MEDS is a long table with names of its own; its static rows (without a
time) are no measurements.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medimind.config.forecast import EventColumns, InputConfig
from medimind.errors import DataError, MissingExtraError
from medimind.forecasting.records.columns import names, numbers, times
from medimind.forecasting.records.raw import MISSING, RawRows, SourceProblem, Unread
from medimind.forecasting.records.table import Event, Integers, Texts
from medimind.forecasting.records.units import days_in

_MEDS = {"patient": "subject_id", "time": "time", "code": "code", "value": "numeric_value"}


@dataclass(frozen=True, slots=True)
class Source:
    """A table in memory and what was lost on the way there.

    Attributes:
        where: The file.
        table: Arrow table.
        row: (N,) 1-based row of the file, the header not counted.
        problems: Rows that were lost.
    """

    where: str
    table: Any
    row: Integers
    problems: tuple[SourceProblem, ...] = ()


def read_csv(path: Path) -> Source:
    """The table of a CSV file, as `csv_source` makes it.

    Raises:
        DataError: If the file cannot be read or has no header.
    """
    try:
        content = path.read_bytes()
    except OSError as problem:
        raise DataError(f"the table cannot be read ({problem.strerror})", where=str(path)) from None
    return csv_source(content, where=str(path))


def csv_source(content: bytes, *, where: str) -> Source:
    """All cells as text; rows with another number of cells, or not in UTF-8, are lost and told.

    Raises:
        DataError: If it is no table or has no header.
    """
    try:
        import pyarrow as pa
        import pyarrow.csv as pa_csv
    except ImportError:
        raise MissingExtraError("pyarrow", extra="forecast") from None
    content, not_text = _only_text(content.removeprefix(b"\xef\xbb\xbf"))
    header = content.partition(b"\n")[0].decode().strip()
    if not header:
        raise DataError("the file is empty", where=where)
    delimiter = max(",;\t|", key=header.count)
    columns = [name.strip().strip('"') for name in header.split(delimiter)]
    if len(set(columns)) != len(columns):
        twice = next(name for name in columns if columns.count(name) > 1)
        raise DataError(f"the header names column '{twice}' twice", where=where)
    lost: list[tuple[int, int]] = []

    def ragged(row: Any) -> str:
        lost.append((row.number, row.actual_columns))
        return "skip"

    try:
        table = pa_csv.read_csv(
            pa.BufferReader(content),
            read_options=pa_csv.ReadOptions(use_threads=False, column_names=columns, skip_rows=1),
            parse_options=pa_csv.ParseOptions(
                delimiter=delimiter, invalid_row_handler=ragged, newlines_in_values=False
            ),
            convert_options=pa_csv.ConvertOptions(
                column_types={name: pa.string() for name in columns}, strings_can_be_null=False
            ),
        )
    except pa.ArrowInvalid as problem:
        reason = str(problem).partition("\n")[0]
        raise DataError(f"the table cannot be read ({reason})", where=where) from None
    # Arrow numbers lines from 1, the header included.
    problems = [
        SourceProblem("not-text", number - 1, "", "", "", True)
        if number in not_text
        else SourceProblem(
            "row-shape", number - 1, "", "", f"{cells} cells, {len(columns)} wanted", True
        )
        for number, cells in lost
    ]
    ragged_rows = [number - 1 for number, _ in lost]
    all_rows = np.arange(1, table.num_rows + len(lost) + 1)
    return Source(where, table, np.setdiff1d(all_rows, ragged_rows), tuple(problems))


def _only_text(content: bytes) -> tuple[bytes, set[int]]:
    """The content with one cell instead of lines that are not UTF-8, and their numbers from 1."""
    try:
        content.decode("utf-8")
    except UnicodeDecodeError:
        wrong: set[int] = set()
        lines = content.split(b"\n")
        for index, line in enumerate(lines):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError:
                lines[index] = b"?"
                wrong.add(index + 1)
        return b"\n".join(lines), wrong
    return content, set()


def read_rows(source: Source, config: InputConfig, kind: str) -> RawRows:
    """The measurements of a table of that kind: ``long``, ``wide`` or ``meds``.

    Raises:
        DataError: If a column is missing.
    """
    table = source.table
    column = _MEDS if kind == "meds" else {
        "patient": config.patient, "time": config.time, "code": config.code, "value": config.value,
    }  # fmt: skip
    wanted = [column["patient"], column["time"]]
    wanted += [*config.values] if kind == "wide" else [column["code"], column["value"]]
    wanted += [*config.covariates]
    for event in config.events.values():
        wanted += [event.time, event.status]
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        raise DataError(
            f"no column {', '.join(missing)}",
            where=source.where,
            fix=f"The file has {', '.join(table.column_names[:30])}; map columns with --input YAML",
        )
    patient, patients = names(table.column(column["patient"]))
    time, time_flags, is_dated = times(
        table.column(column["time"]), days_in_unit=days_in(config.time_unit)
    )
    spread = _wide if kind == "wide" else _long
    parts = spread(source, config, column, kind)
    at = parts["at"]
    problems = list(source.problems)
    covariates, events = {}, {}
    facts = _Facts(source, patient, patients, problems)
    for name in config.covariates:
        covariates[name] = facts.covariate(name)
    for name, event in config.events.items():
        events[name] = facts.event(name, event, config)
    return RawRows(
        where=source.where,
        row=source.row[at],
        patients=np.array(patients, dtype=object),
        patient=patient[at],
        time=time[at],
        is_dated=is_dated,
        codes=parts["codes"],
        code=parts["code"],
        value=parts["value"],
        units=parts["units"],
        unit=parts["unit"],
        statuses=parts["statuses"],
        status=parts["status"],
        unread=parts["flags"] | time_flags[at],
        covariates=covariates,
        events=events,
        problems=tuple(problems),
    )


def _long(source: Source, config: InputConfig, column: dict[str, str], kind: str) -> dict[str, Any]:
    table = source.table
    value, flags = numbers(table.column(column["value"]))
    code, codes = names(table.column(column["code"]))
    nothing = np.full(len(value), MISSING, dtype=np.int32)
    unit, units = nothing, ()
    if config.unit in table.column_names:
        unit, units = names(table.column(config.unit))
    status, statuses = nothing, ()
    if config.status in table.column_names and kind == "long":
        status, statuses = names(table.column(config.status))
    at = np.arange(len(value))
    if kind == "meds":
        # Codes without a number (diagnoses, visits) and static facts are no measurements.
        has_time = ~np.asarray(table.column(column["time"]).is_null())
        at = np.flatnonzero((flags == 0) & has_time)
    return {
        "at": at, "codes": codes, "code": code[at], "value": value[at], "flags": flags[at],
        "units": units, "unit": unit[at], "statuses": statuses, "status": status[at],
    }  # fmt: skip


def _wide(source: Source, config: InputConfig, column: dict[str, str], kind: str) -> dict[str, Any]:
    codes = tuple(dict.fromkeys(one.code for one in config.values.values()))
    units = tuple(dict.fromkeys(one.unit for one in config.values.values()))
    at, code, value, flags, unit = [], [], [], [], []
    for name, one in config.values.items():
        some, marks = numbers(source.table.column(name))
        # An empty cell is a visit without this measurement, as is the NaN that programs write.
        rows = np.flatnonzero(
            ((marks & Unread.VALUE_MISSING) == 0) & ~((marks == 0) & np.isnan(some))
        )
        at.append(rows)
        code.append(np.full(len(rows), codes.index(one.code), dtype=np.int32))
        unit.append(np.full(len(rows), units.index(one.unit), dtype=np.int32))
        value.append(some[rows])
        flags.append(marks[rows])
    # In the order of the file's rows, so that only rows out of order look out of order.
    order = np.argsort(np.concatenate(at), kind="stable")
    joined = {
        name: np.concatenate(one)[order]
        for name, one in (
            ("at", at), ("code", code), ("value", value), ("flags", flags), ("unit", unit)
        )
    }  # fmt: skip
    nothing = np.full(len(order), MISSING, dtype=np.int32)
    return {**joined, "codes": codes, "units": units, "statuses": (), "status": nothing}


class _Facts:
    """Facts of patients from columns that should not change within one."""

    def __init__(
        self,
        source: Source,
        patient: Integers,
        patients: tuple[str, ...],
        problems: list[SourceProblem],
    ) -> None:
        self.source, self.patient, self.patients = source, patient, patients
        self.problems = problems

    def covariate(self, name: str) -> Texts:
        """(P,) Numbers if all that is known are, else texts."""
        index, texts = names(self.source.table.column(name))
        first = self._first(index, name, "covariate-changes", texts)
        found = np.array([*texts, ""], dtype=object)[first]
        try:
            return np.array([float(text) if text else np.nan for text in found])
        except ValueError:
            return found

    def event(self, name: str, columns: EventColumns, config: InputConfig) -> Event:
        """Time and status of each patient; both unknown where either is not usable."""
        table = self.source.table
        days, flags, _ = times(table.column(columns.time), days_in_unit=days_in(config.time_unit))
        status, statuses = names(table.column(columns.status))
        observed = {_plain(one) for one in columns.observed}
        censored = {_plain(one) for one in columns.censored}
        state = np.array(
            [1 if _plain(t) in observed else 0 if _plain(t) in censored else 2 for t in statuses]
            + [2]
        )
        rows = self._first_rows()
        distinct, times_index = np.unique(np.where(flags == 0, days, np.nan), return_inverse=True)
        self._first(times_index, name, "event-changes", tuple(f"{one:g}" for one in distinct))
        time, is_observed = np.full(len(rows), np.nan), np.zeros(len(rows), dtype=bool)
        for patient, row in enumerate(rows):
            number, patient_name = int(self.source.row[row]), self.patients[patient]
            if state[status[row]] == 2:
                shown = statuses[status[row]] if status[row] >= 0 else "empty"
                self.problems.append(
                    SourceProblem("event-status", number, patient_name, name, shown, False)
                )
            elif flags[row] or not np.isfinite(days[row]) or days[row] < 0:
                self.problems.append(
                    SourceProblem("event-time", number, patient_name, name, "", False)
                )
            else:
                time[patient], is_observed[patient] = days[row], state[status[row]] == 1
        return Event(time_days=time, is_observed=is_observed)

    def _first_rows(self) -> Integers:
        known = np.flatnonzero(self.patient >= 0)
        rows = np.zeros(len(self.patients), dtype=np.int64)
        rows[self.patient[known][::-1]] = known[::-1]
        return rows

    def _first(self, index: Integers, name: str, kind: str, texts: tuple[str, ...]) -> Integers:
        """Each patient's first known place; later ones that differ are told once a patient."""
        known = np.flatnonzero((self.patient >= 0) & (index >= 0))
        first = np.full(len(self.patients), MISSING, dtype=np.int64)
        first[self.patient[known][::-1]] = index[known[::-1]]
        differs = known[index[known] != first[self.patient[known]]]
        _, firsts = np.unique(self.patient[differs], return_index=True)
        for row in differs[firsts]:
            patient = int(self.patient[row])
            detail = f"{texts[first[patient]]}, then {texts[index[row]]}"
            self.problems.append(
                SourceProblem(
                    kind, int(self.source.row[row]), self.patients[patient], name, detail, False
                )
            )
        return first


def _plain(text: object) -> str:
    """The same text for 1, 1.0 and "1"."""
    try:
        return f"{float(str(text)):g}"
    except ValueError:
        return str(text).strip().lower()

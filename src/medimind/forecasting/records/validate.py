"""Raw rows to records: every row is kept, or left out for a reason that is listed.

``rows_in = rows_kept + rows left out``, each row counted once, for the first reason found.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable

import numpy as np

from medimind.config.forecast import InputConfig
from medimind.errors import DataError
from medimind.forecasting.records import row_checks, series_checks
from medimind.forecasting.records.findings import KINDS, Block, Finding, Validation
from medimind.forecasting.records.raw import RawRows
from medimind.forecasting.records.row_checks import Meaning
from medimind.forecasting.records.series_checks import Sorted
from medimind.forecasting.records.table import (
    DAYS_A_YEAR,
    Event,
    Flags,
    Floats,
    Integers,
    Records,
    Texts,
    make_records,
)


def validate(raw: RawRows, config: InputConfig) -> tuple[Records, Validation]:
    """The records that can be made of the rows, and all that was found."""
    tally = _Tally(raw)
    codes = row_checks.meanings(raw, config)
    tally.mark(row_checks.unread_marks(raw))
    tally.mark(row_checks.status_marks(raw))
    tally.mark(row_checks.time_marks(raw, config))
    tally.mark(row_checks.code_marks(raw, codes))
    value, units, unit_marks = row_checks.convert(raw, codes, config)
    tally.mark(unit_marks)
    tally.mark(row_checks.value_marks(raw, value, tally.usable, codes, config), shown=value)
    if raw.has_order:
        tally.note("time-unsorted", _goes_back(raw, tally.usable))
    # Several codes of the source may mean the same.
    merged: dict[str, Meaning] = {}
    unit_of: dict[str, str] = {}
    for one, unit in zip(codes, units):
        merged.setdefault(one.name, one)
        unit_of.setdefault(one.name, unit)
    names = tuple(merged)
    place = {name: index for index, name in enumerate(names)}
    code = np.array([place[one.name] for one in codes])[raw.code] if codes else raw.code
    rows = series_checks.sort_rows(tally.usable, raw.patient, code, raw.time, value)
    rows = _compare(rows, list(merged.values()), names, raw, tally)
    records = _records(rows, raw, names, list(unit_of.values()))
    _look_at_patients(raw, records, config, tally)
    return records, tally.validation(records.num_rows)


def refuse(validation: Validation) -> None:
    """With ``--strict``: stop at anything that was found.

    Raises:
        DataError: Listing the kinds, each with its first finding.
    """
    serious = [kind for kind in validation.found if kind not in ("few-visits", "time-unsorted")]
    if not serious:
        return
    first: dict[str, Finding] = {}
    for block in validation.blocks:
        if block.kind in serious and block.kind not in first:
            first[block.kind] = next(iter(block))
    lines = []
    for kind in serious:
        row = first[kind].as_row()
        place = f"row {row['row']}, " if row["row"] else ""
        lines.append(
            f"\n  {place}patient '{row['patient']}', code '{row['code']}': {row['found']} "
            f"({validation.found[kind]} such). {row['fix']}."
        )
    raise DataError(
        f"the records have {validation.found.total()} findings:{''.join(lines)}\n",
        fix="Mend them, or leave --strict away to go on without these rows",
    )


class _Tally:
    """Gathers findings; knows which rows are still usable."""

    def __init__(self, raw: RawRows) -> None:
        self.raw = raw
        self.kinds: list[str] = []
        self.reason = np.full(len(raw.value), -1, dtype=np.int16)
        self.blocks: list[Block] = []
        for problem in raw.problems:
            finding = Finding(
                problem.kind, raw.where, problem.row, problem.patient, problem.code, problem.detail
            )
            self.blocks.append(Block(problem.kind, np.zeros(1, np.int64), lambda _, f=finding: f))

    @property
    def usable(self) -> Flags:
        """(N,) Rows that nothing has left out yet."""
        return self.reason < 0

    def mark(self, marks: Iterable[tuple[str, Flags]], *, shown: Floats | None = None) -> None:
        """Rows (N,) with findings; kinds that leave rows out do so."""
        for kind, marked in marks:
            self._add(kind, np.flatnonzero(marked), shown)

    def mark_places(self, kind: str, places: Integers, *, shown: Floats | None = None) -> None:
        """The same for places of rows."""
        self._add(kind, places, shown)

    def note(self, kind: str, places: Integers) -> None:
        """Findings that leave nothing out."""
        self._add(kind, places, None)

    def tell(self, kind: str, patient: str, code: str, detail: str, *, row: int = 0) -> None:
        """One finding that belongs to a patient or a code."""
        finding = Finding(kind, self.raw.where, row, patient, code, detail)
        self.blocks.append(Block(kind, np.zeros(1, np.int64), lambda _: finding))

    def _add(self, kind: str, places: Integers, shown: Floats | None) -> None:
        if len(places) == 0:
            return
        if KINDS[kind].leaves_out:
            self.kinds.append(kind)
            fresh = places[self.reason[places] < 0]
            self.reason[fresh] = len(self.kinds) - 1
        self.blocks.append(Block(kind, places, _maker(self.raw, kind, shown)))

    def validation(self, rows_kept: int) -> Validation:
        """All of it."""
        left_out: Counter[str] = Counter()
        counts = np.bincount(self.reason[self.reason >= 0], minlength=len(self.kinds))
        for kind, count in zip(self.kinds, counts.tolist()):
            if count:
                left_out[kind] += count
        left_out.update(Counter(one.kind for one in self.raw.problems if one.lost))
        found: Counter[str] = Counter()
        for block in self.blocks:
            found[block.kind] += len(block.rows)
        return Validation(
            self.raw.rows_in, rows_kept, left_out, found, len(self.raw.patients),
            tuple(self.blocks),
        )  # fmt: skip


def _maker(raw: RawRows, kind: str, shown: Floats | None) -> Callable[[int], Finding]:
    def make(place: int) -> Finding:
        patient = str(raw.patients[raw.patient[place]]) if raw.patient[place] >= 0 else ""
        code = raw.codes[raw.code[place]] if raw.code[place] >= 0 else ""
        unit = raw.units[raw.unit[place]] if raw.unit[place] >= 0 else ""
        detail = ""
        if kind.startswith("unit"):
            detail = f"'{unit}'"
        elif kind.startswith("status"):
            detail = raw.statuses[raw.status[place]]
        elif kind.startswith("time"):
            detail = "" if np.isnan(raw.time[place]) else _time_text(raw, place)
        elif kind in ("duplicate", "conflict") or kind.startswith("value-"):
            number = raw.value[place] if shown is None else shown[place]
            detail = "" if np.isnan(number) else f"{raw.value[place]:g} {unit}".strip()
        return Finding(kind, raw.where, int(raw.row[place]), patient, code, detail)

    return make


def _time_text(raw: RawRows, place: int) -> str:
    if raw.is_dated and abs(raw.time[place]) < 1e6:
        return str(np.datetime64(int(raw.time[place]), "D"))
    return f"{raw.time[place]:g} days"


def _goes_back(raw: RawRows, usable: Flags) -> Integers:
    """Rows that lie before the latest one of their patient so far."""
    rows = np.flatnonzero(usable)
    if not np.all(np.diff(raw.patient[rows]) >= 0):
        rows = rows[np.argsort(raw.patient[rows], kind="stable")]
    patient, time = raw.patient[rows], raw.time[rows]
    back = np.zeros(len(rows), dtype=bool)
    back[1:] = (patient[1:] == patient[:-1]) & (time[1:] < time[:-1])
    return np.sort(rows[back])


def _compare(
    rows: Sorted, codes: list[Meaning], names: tuple[str, ...], raw: RawRows, tally: _Tally
) -> Sorted:
    """The rows without repeats, contradictions, jumps and copies."""
    again, conflict = series_checks.repeated(rows)
    tally.mark_places("duplicate", rows.place[again])
    tally.mark_places("conflict", rows.place[conflict])
    rows = rows.keep(~again & ~conflict)
    found = series_checks.jumps(rows, codes)
    for kind, marked in found.items():
        tally.mark_places(kind, rows.place[marked])
    rows = rows.keep(~np.logical_or.reduce([*found.values()]))
    copied = np.isin(rows.code, [copy for _, copy in series_checks.copied_codes(rows, len(codes))])
    tally.mark_places("codes-identical", rows.place[copied])
    rows = rows.keep(~copied)
    for code, unit in series_checks.suspect_units(rows, codes):
        tally.tell("unit-suspect", "", names[code], f"{unit} instead of the unit that is given")
    copies = series_checks.copied_patients(rows, len(raw.patients))
    for first, copy in copies:
        tally.tell("identical-patients", str(raw.patients[copy]), "", f"as {raw.patients[first]}")
    return rows


def _records(rows: Sorted, raw: RawRows, names: tuple[str, ...], units: list[str]) -> Records:
    num_patients = len(raw.patients)
    origin = np.full(num_patients, np.nan)
    if raw.is_dated:
        np.fmin.at(origin, rows.patient, rows.time)
    shift = np.where(np.isnan(origin), 0.0, origin) if raw.is_dated else np.zeros(num_patients)
    used = np.unique(rows.code)
    place = np.zeros(len(names) + 1, dtype=np.int32)
    place[used] = np.arange(len(used))
    covariates: dict[str, Texts] = dict(raw.covariates)
    if raw.birth_day is not None and "age" not in covariates:
        covariates["age"] = (origin - raw.birth_day) / DAYS_A_YEAR
    return make_records(
        patients=raw.patients,
        codes=tuple(names[code] for code in used),
        units=tuple(units[code] for code in used),
        patient_index=rows.patient,
        time_days=rows.time - shift[rows.patient],
        code_index=place[rows.code],
        value=rows.value,
        covariates=covariates,
        events={
            name: Event(event.time_days - shift, event.is_observed)
            for name, event in raw.events.items()
        },
        origin_day=origin if raw.is_dated else None,
    )


def _look_at_patients(raw: RawRows, records: Records, config: InputConfig, tally: _Tally) -> None:
    seen: dict[str, str] = {}
    for name in raw.patients:
        plain = str(name).casefold().replace(" ", "")
        if plain in seen:
            tally.tell("patient-spelling", str(name), "", f"'{seen[plain]}' and '{name}'")
        seen.setdefault(plain, str(name))
    visits = records.num_visits
    for place in np.flatnonzero(visits == 0):
        tally.tell("no-rows-left", str(raw.patients[place]), "", "")
    few = np.flatnonzero((visits > 0) & (visits < config.min_visits))
    for place in few:
        detail = f"{visits[place]} of {config.min_visits}"
        tally.tell("few-visits", str(raw.patients[place]), "", detail)
    ends = records.offsets[1:]
    has_rows = visits > 0
    last = np.zeros(len(visits))
    last[has_rows] = records.time_days[ends[has_rows] - 1]
    for name, event in records.events.items():
        for place in np.flatnonzero(has_rows & (last > event.time_days + 1.0)):
            detail = f"last at {last[place]:g}, {name} at {event.time_days[place]:g} days"
            tally.tell("after-event", str(raw.patients[place]), name, detail)

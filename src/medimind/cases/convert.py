"""Rows of one file turned into cases and rejections."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from medimind.cases.case import Case
from medimind.cases.outcome import Rejection, RowProblem
from medimind.cases.parts import Part
from medimind.cases.schemas.fields import Fields
from medimind.cases.schemas.recognise import Reading, choose_reading
from medimind.cases.schemas.roles import suggest
from medimind.cases.schemas.tabular import metadata_of
from medimind.cases.sources.row import BadRow, Row
from medimind.errors import DataError

_SAMPLED_ROWS = 64
_SPLITS = {
    "train": "train",
    "held_out": "held_out",
    "test": "held_out",
    "validation": "held_out",
    "dev": "held_out",
}


@dataclass(frozen=True, slots=True)
class PartReading:
    """How a part is read; ``None`` for a part without a single readable row."""

    reading: Reading | None
    has_group: bool


def choose_part_reading(
    part: Part, *, schema_name: str, mapped: Mapping[str, str], group_by: str | None
) -> PartReading:
    """The schema of a part, from the columns of its first rows.

    Raises:
        DataError: The part has no rows, or its columns fit no schema.
    """
    sample = list(itertools.islice(_readable(part), _SAMPLED_ROWS))
    if not sample:
        if next(part.read(), None) is None:
            raise DataError("there are no rows", where=part.where, fix="Give a file with rows")
        return PartReading(None, has_group=False)
    names = list(dict.fromkeys(name for row in sample for name in row.fields))
    reading = choose_reading(schema_name, names=names, mapped=mapped, where=part.where)
    if "cop" in reading.columns:
        reading = replace(reading, columns=_with_cop(part, reading.columns))
    return PartReading(reading, has_group=group_by in names)


def group_missing(column: str, parts: Sequence[Part]) -> DataError:
    """The error for a ``group_by`` that no source has."""
    names = {name for part in parts for row in _readable(part, limit=1) for name in row.fields}
    close = suggest(column, names)
    return DataError(
        f"no source has the column '{column}' to group by",
        where="data.group_by",
        fix=f"Did you mean '{close}'?" if close else f"Name one of: {', '.join(sorted(names))}",
    )


def convert_rows(
    part: Part, rows: Iterator[tuple[int, Row | BadRow]], *, how: PartReading, group_by: str | None
) -> Iterator[Case | Rejection]:
    """A case or a rejection for every row.

    Args:
        part: Where the rows are from.
        rows: Their number in the part, and the rows.
        how: How they are read.
        group_by: Column whose value groups cases.
    """
    last_line = 0
    for number, row in rows:
        place = f"{part.label}:{row.line}" + (f"#{number}" if row.line == last_line else "")
        last_line = row.line
        if isinstance(row, BadRow) or how.reading is None:
            bad = row if isinstance(row, BadRow) else BadRow(row.line, "is unreadable", "Drop it")
            yield _rejection(part, row.line, place, bad)
            continue
        fields = Fields(row.fields, columns=how.reading.columns)
        try:
            case = how.reading.schema.build(fields)
            yield replace(
                case,
                id=_own_id(row) if part.own_ids else place,
                group=_group(fields, group_by) if how.has_group and group_by else None,
                split=_split(fields),
                source=part.source,
                row=row.line,
                metadata=metadata_of(fields),
            )
        except RowProblem as problem:
            yield _rejection(part, row.line, place, problem)


def _readable(part: Part, *, limit: int | None = None) -> Iterator[Row]:
    return itertools.islice((row for row in part.read() if isinstance(row, Row)), limit)


def _with_cop(part: Part, columns: Mapping[str, str]) -> dict[str, str]:
    """MedMCQA's ``cop`` as 0- or 1-based, by what all rows of the part hold."""
    rest = {role: column for role, column in columns.items() if role != "cop"}
    if "answer_key" in rest or "answer_number" in rest:
        return rest
    column = columns["cop"]
    seen: set[int] = set()
    num_options: set[int] = set()
    for row in _readable(part):
        value = row.fields.get(column)
        try:
            seen.add(int(value))  # pyright: ignore[reportArgumentType]
        except (TypeError, ValueError, OverflowError):
            continue
        num_options.add(5 if row.fields.get("ope") else 4)
    zero, most = 0 in seen, max(num_options, default=4) in seen
    if zero == most:
        why = "both 0 and the number of options are there" if zero else "neither is there"
        raise DataError(
            f"'{column}' may count the options from 0 or from 1: {why}",
            where=part.where,
            fix=f"Set columns: {{answer_key: {column}}} if it counts from 0, "
            f"{{answer_number: {column}}} if from 1",
        )
    return {**rest, "answer_key" if zero else "answer_number": column}


def _rejection(part: Part, line: int, place: str, problem: BadRow | RowProblem) -> Rejection:
    return Rejection(
        source=part.source,
        file=part.where,
        line=line,
        where=place,
        field=problem.field,
        reason=problem.reason,
        fix=problem.fix,
    )


def _own_id(row: Row) -> str:
    value = row.fields.get("id")
    if not isinstance(value, str) or not value:
        raise RowProblem("is missing", field="id", fix="Give the case an id")
    return value


def _group(fields: Fields, column: str) -> str | None:
    value = Fields(fields.row, columns={"group": column}).short_text("group")
    return value


def _split(fields: Fields) -> str | None:
    value = fields.value("split")
    return _SPLITS.get(value.strip().lower()) if isinstance(value, str) else None

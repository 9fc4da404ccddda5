"""All sources of a recipe as one set of cases, with an account of every row."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from medimind.cases.case import Case
from medimind.cases.convert import (
    PartReading,
    choose_part_reading,
    convert_rows,
    group_missing,
)
from medimind.cases.duplicates import find_duplicates
from medimind.cases.loaded import FileRead, LoadedCases, SourceRead
from medimind.cases.outcome import Duplicate, Rejection
from medimind.cases.parts import Part, open_parts
from medimind.cases.sources.row import BadRow, Row
from medimind.config.data import DataConfig, SourceConfig
from medimind.errors import DataError

logger = logging.getLogger(__name__)

_SHOWN_REJECTIONS = 5
_FILE_SPLIT = re.compile(r"train(?:\[(\d*):(\d*)\])?")


@dataclass(slots=True)
class _Read:
    """What one source gave, before duplicates are taken out."""

    config: SourceConfig
    name: str
    files: list[FileRead]
    cases: list[Case]
    rejections: list[Rejection]


def load_cases(config: DataConfig, *, base_folder: Path) -> LoadedCases:
    """The cases of all sources, validated and without duplicates.

    Args:
        config: The recipe's section ``data``.
        base_folder: Where relative paths start.

    Raises:
        DataError: A source cannot be read, its columns fit no schema, a row is wrong and
            ``on_invalid`` is ``stop``, or no case is left.
        MissingExtraError: A source needs a package that is not installed.
    """
    warnings: list[str] = []
    parts = open_parts(config.sources, base_folder=base_folder, warnings=warnings)
    hows = {
        part.label: choose_part_reading(
            part,
            schema_name=source.schema_name,
            mapped=source.columns,
            group_by=config.group_by,
        )
        for source, some in parts
        for part in some
    }
    if config.group_by:
        _check_groups(config.group_by, parts, hows, warnings)
    reads = [_read_source(source, some, hows, config.group_by) for source, some in parts]
    rejections = [rejection for read in reads for rejection in read.rejections]
    if rejections and config.on_invalid == "stop":
        raise _stopped(rejections)
    _make_ids_unique(reads)
    every = [case for read in reads for case in read.cases]
    if not every:
        raise _nothing_left(rejections)
    duplicates: list[Duplicate] = []
    if config.deduplicate != "none":
        near = config.near_threshold if config.deduplicate == "near" else None
        duplicates = find_duplicates(every, near_threshold=near)
    if rejections:
        warnings.append(f"{len(rejections)} rows were rejected; the first: {rejections[0]}")
    for warning in warnings:
        logger.warning(warning)
    return _account(reads, duplicates=duplicates, warnings=warnings)


def _check_groups(
    column: str,
    parts: Sequence[tuple[SourceConfig, list[Part]]],
    hows: dict[str, PartReading],
    warnings: list[str],
) -> None:
    every = [part for _, some in parts for part in some]
    without = [part for part in every if not hows[part.label].has_group]
    if len(without) == len(every):
        raise group_missing(column, every)
    warnings.extend(
        f"{part.where}: there is no column '{column}'; its cases are grouped by question"
        for part in without
    )


def _read_source(
    source: SourceConfig, parts: list[Part], hows: dict[str, PartReading], group_by: str | None
) -> _Read:
    read = _Read(source, parts[0].source, [], [], [])
    start, stop = _taken_rows(source)
    position = 0
    for part in parts:
        how = hows[part.label]
        numbered = enumerate(part.read(), start=1)
        first, last = max(start - position, 0), None if stop is None else max(stop - position, 0)
        counted = _Counted(itertools.islice(numbered, last))
        rows = itertools.islice(counted, first, None)
        num_rows = 0
        for outcome in convert_rows(part, rows, how=how, group_by=group_by):
            num_rows += 1
            if isinstance(outcome, Case):
                read.cases.append(outcome)
            else:
                read.rejections.append(outcome)
        position += counted.count
        read.files.append(
            FileRead(
                path=part.where,
                schema=how.reading.schema.name if how.reading else None,
                columns=dict(how.reading.columns) if how.reading else {},
                rows=num_rows,
                sha256=part.sha256,
            )
        )
    return read


class _Counted:
    """Passes rows on and counts them."""

    def __init__(self, rows: Iterator[tuple[int, Row | BadRow]]) -> None:
        self._rows = rows
        self.count = 0

    def __iter__(self) -> Iterator[tuple[int, Row | BadRow]]:
        for row in self._rows:
            self.count += 1
            yield row


def _taken_rows(source: SourceConfig) -> tuple[int, int | None]:
    """First row and the one after the last; a hub's own slice was taken there already."""
    start, stop = 0, None
    if source.source == "file":
        found = _FILE_SPLIT.fullmatch(source.split)
        if not found:
            raise DataError(
                f"a file has no split '{source.split}'",
                where=source.path,
                fix="Leave split out, or give rows as train[10:200]",
            )
        start, stop = int(found[1] or 0), int(found[2]) if found[2] else None
    if source.limit is not None:
        stop = min(start + source.limit, start + source.limit if stop is None else stop)
    return start, stop


def _make_ids_unique(reads: Sequence[_Read]) -> None:
    seen: dict[str, str] = {}
    for read in reads:
        for case in read.cases:
            if case.id in seen:
                raise DataError(
                    f"the id '{case.id}' is there twice",
                    where=f"{read.name}:{case.row}",
                    fix=f"Name the source '{seen[case.id]}' once only",
                )
            seen[case.id] = read.name


def _account(
    reads: Sequence[_Read], *, duplicates: list[Duplicate], warnings: list[str]
) -> LoadedCases:
    left_out = {duplicate.case_id for duplicate in duplicates}
    cases: list[Case] = []
    weights: list[float] = []
    sources: list[SourceRead] = []
    for read in reads:
        kept = [case for case in read.cases if case.id not in left_out]
        cases += kept
        weights += [read.config.weight] * len(kept)
        sources.append(
            SourceRead(
                name=read.name,
                kind=read.config.source,
                weight=read.config.weight,
                revision=read.config.revision,
                files=tuple(read.files),
                rows_in=len(read.cases) + len(read.rejections),
                kept=len(kept),
                rejected=len(read.rejections),
                duplicates=len(read.cases) - len(kept),
            )
        )
    return LoadedCases(
        cases=tuple(cases),
        weights=tuple(weights),
        rejections=tuple(rejection for read in reads for rejection in read.rejections),
        duplicates=tuple(duplicates),
        rows_in=sum(file.rows for read in reads for file in read.files),
        sources=tuple(sources),
        warnings=tuple(warnings),
    )


def _stopped(rejections: Sequence[Rejection]) -> DataError:
    return DataError(
        f"{len(rejections)} rows are wrong",
        fix=f"Mend them, or set data.on_invalid: skip:\n{first_rejections(rejections)}",
    )


def _nothing_left(rejections: Sequence[Rejection]) -> DataError:
    if not rejections:
        return DataError("no rows were taken", fix="Check limit and the slice in split")
    return DataError(
        f"no row can be used, {len(rejections)} rejected",
        fix="Mend them, or set schema and columns of the source:\n" + first_rejections(rejections),
    )


def first_rejections(rejections: Sequence[Rejection]) -> str:
    """The first several rejections, one a line."""
    lines = [f"  {rejection}" for rejection in rejections[:_SHOWN_REJECTIONS]]
    if len(rejections) > _SHOWN_REJECTIONS:
        lines.append(f"  and {len(rejections) - _SHOWN_REJECTIONS} more")
    return "\n".join(lines)

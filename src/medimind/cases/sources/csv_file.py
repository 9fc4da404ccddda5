"""CSV files: a header, then rows whose cells may hold line breaks."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

from medimind.cases.sources.encoding import open_text
from medimind.cases.sources.row import MAX_ROW_CHARACTERS, BadRow, Row, Rows
from medimind.errors import DataError

_DELIMITERS = ",;\t|"
_HEADER_CHARACTERS = 1 << 16
_LETTER = re.compile(r"\s*[A-J]\s*")


def read_csv(path: Path) -> Rows:
    """Each record as a row, with the line it starts on; blank lines are passed over.

    The delimiter is the one of ``, ; tab |`` that cuts the header into most columns. A file whose
    first record is already a question, its options and a letter (as MMLU's) has no header and
    gets the columns question, A, B, ..., answer.

    Raises:
        DataError: The header names a column twice, or the quoting is broken: what follows a
            broken quote cannot be told apart any more.
    """
    # The limit is the csv module's own, for the whole process; it is only ever raised.
    csv.field_size_limit(max(csv.field_size_limit(), MAX_ROW_CHARACTERS))
    with open_text(path, newline="") as file:
        delimiter = _delimiter(file)
        records = _records(path, file, delimiter=delimiter)
        first = next(records, None)
        if first is None:
            raise DataError("the file has no rows", where=str(path), fix="Give a file with rows")
        line, cells = first
        header = _headerless_columns(cells)
        if header:
            yield Row(line, dict(zip(header, cells)))
        else:
            header = _header(path, line, cells)
        for line, cells in records:
            yield _row(line, cells, header)


def _row(line: int, cells: list[str], header: list[str]) -> Row | BadRow:
    if len(cells) != len(header):
        return BadRow(
            line,
            f"the row has {len(cells)} cells where the header has {len(header)}",
            "Quote cells that hold the delimiter or line breaks",
        )
    if sum(map(len, cells)) > MAX_ROW_CHARACTERS:
        return BadRow(line, "the row is too long", "Split it")
    return Row(line, dict(zip(header, cells)))


def _delimiter(file: TextIO) -> str:
    head = file.readline(_HEADER_CHARACTERS)
    file.seek(0)
    best, most = ",", 0
    for delimiter in _DELIMITERS:
        try:
            num_cells = len(next(csv.reader([head], delimiter=delimiter), []))
        except csv.Error:
            continue
        if num_cells > most:
            best, most = delimiter, num_cells
    return best


def _records(path: Path, file: TextIO, *, delimiter: str) -> Iterator[tuple[int, list[str]]]:
    reader = csv.reader(_bounded(path, file), delimiter=delimiter, strict=True)
    while True:
        line = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"the row that starts here is not valid CSV: {error}",
                where=f"{path}:{line}",
                fix='Quote cells that hold quotes, and double the quotes in them: "a ""b"" c"',
            ) from error
        if cells is None:
            return
        if any(cell.strip() for cell in cells):
            yield line, cells


def _bounded(path: Path, file: TextIO) -> Iterator[str]:
    number = 0
    while line := file.readline(MAX_ROW_CHARACTERS + 1):
        number += 1
        if len(line) > MAX_ROW_CHARACTERS:
            raise DataError(
                f"the line is longer than {MAX_ROW_CHARACTERS} characters",
                where=f"{path}:{number}",
                fix="Split the row, or check for missing line breaks",
            )
        yield line


def _headerless_columns(cells: list[str]) -> list[str] | None:
    letters = [chr(ord("A") + index) for index in range(len(cells) - 2)]
    if len(cells) < 4 or not _LETTER.fullmatch(cells[-1]) or cells[-1].strip() not in letters:
        return None
    if any(cell.strip() in letters for cell in cells[:-1]):
        return None
    return ["question", *letters, "answer"]


def _header(path: Path, line: int, cells: list[str]) -> list[str]:
    names = [cell.strip() or f"column {index}" for index, cell in enumerate(cells, start=1)]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise DataError(
            f"the header names a column twice: {', '.join(map(repr, twice[:5]))}",
            where=f"{path}:{line}",
            fix="Rename or remove one of the two",
        )
    return names

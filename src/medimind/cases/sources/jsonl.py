"""JSON Lines: one object per line."""

from __future__ import annotations

from pathlib import Path

from medimind.cases.outcome import RowProblem
from medimind.cases.sources.encoding import open_text, read_lines
from medimind.cases.sources.json_values import as_row, decode
from medimind.cases.sources.row import TOO_LONG, TOO_LONG_FIX, BadRow, Row, Rows


def read_jsonl(path: Path) -> Rows:
    """Each line as a row; blank lines are passed over.

    Raises:
        DataError: The file cannot be read as text.
    """
    with open_text(path) as file:
        for number, line in read_lines(file):
            if line is None:
                yield BadRow(number, TOO_LONG, TOO_LONG_FIX)
            elif line.strip():
                yield _row(number, line)


def _row(number: int, line: str) -> Row | BadRow:
    if "\0" in line:
        return BadRow(number, "the row holds a NUL byte", "Remove it")
    try:
        return as_row(number, decode(line))
    except RowProblem as problem:
        return BadRow(number, problem.reason, problem.fix)

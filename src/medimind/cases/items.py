"""Questions of benchmark files, to look for in the training cases."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from medimind.cases.case import Case
from medimind.cases.outcome import RowProblem
from medimind.cases.schemas.fields import Fields
from medimind.cases.schemas.options import read_options
from medimind.cases.schemas.roles import Role, assign_columns, suggest
from medimind.cases.schemas.tabular import OPTIONS, QUESTION, read_context
from medimind.cases.sources.files import find_files, read_rows
from medimind.cases.sources.row import Row
from medimind.errors import DataError

_ROLES = (
    Role("question", (*QUESTION, "instruction", "input", "findings"), required=True),
    Role("context", ("context", "contexts", "abstract")),
    OPTIONS,
)


def read_items(path: Path) -> tuple[list[Case], int]:
    """The questions of a file or folder, with context and options, and how many rows have none.

    Raises:
        DataError: A file cannot be read, or has no column with questions.
    """
    items: list[Case] = []
    num_unread = 0
    for file in find_files(path):
        columns: dict[str, str] = {}
        for number, row in enumerate(read_rows(file), start=1):
            if not isinstance(row, Row):
                num_unread += 1
                continue
            columns = columns or _columns(file, list(row.fields))
            try:
                items.append(_item(Fields(row.fields, columns=columns), file, number))
            except RowProblem:
                num_unread += 1
    if not items:
        raise DataError("no questions were found", where=str(path), fix="Give a benchmark file")
    return items, num_unread


def _columns(file: Path, names: Sequence[str]) -> dict[str, str]:
    columns = assign_columns(_ROLES, names=names, mapped={})
    if "question" not in columns:
        close = suggest("question", names)
        raise DataError(
            "no column holds the questions of this benchmark",
            where=str(file),
            fix=f"Rename the column '{close}' to 'question'"
            if close
            else "Name a column 'question'",
        )
    return columns


def _item(fields: Fields, file: Path, number: int) -> Case:
    question = fields.text("question")
    try:
        options = read_options(fields)
    except RowProblem:
        options = ()  # only lengthens a question too short to be looked for
    return Case(
        id=f"{file.name}:{number}",
        question=read_context(fields, question),
        response="",
        options=options,
        source=file.name,
        row=number,
    )

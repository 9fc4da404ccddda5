"""What becomes of a row that is not kept."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Rejection:
    """A row that cannot become a case. Holds no text of the row itself.

    Attributes:
        source: Name of the source.
        file: File, or data set on the hub.
        line: 1-based line where the row starts (its number, where a format has no lines).
        where: The place, such as ``cases.jsonl:412``; ``cases.json:1#3`` is the third row of a
            file that has several in a line.
        field: Column at fault; ``None`` where the whole row is.
        reason: What is wrong.
        fix: What to do about it.
    """

    source: str
    file: str
    line: int
    where: str
    field: str | None
    reason: str
    fix: str

    def __str__(self) -> str:
        field = f"field '{self.field}': " if self.field else ""
        return f"{self.where}: {field}{self.reason}. {self.fix}."


@dataclass(frozen=True, slots=True)
class Duplicate:
    """A row that repeats a kept one.

    Attributes:
        source: Name of the source of the row left out.
        case_id: The case left out.
        kept_id: The case it repeats.
        kind: ``exact`` after normalisation, or ``near``.
        similarity: Jaccard similarity of the two sets of word 3-grams; 1 for ``exact``.
    """

    source: str
    case_id: str
    kept_id: str
    kind: Literal["exact", "near"]
    similarity: float


class RowProblem(Exception):
    """Raised while a row is read or turned into a case; becomes a ``Rejection``.

    Args:
        reason: What is wrong, without any text of the row.
        field: Column at fault.
        fix: What to do about it.
    """

    def __init__(self, reason: str, *, field: str | None = None, fix: str) -> None:
        super().__init__(reason)
        self.reason = reason
        self.field = field
        self.fix = fix

"""The cases of all sources, and what became of every row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from medimind.cases.case import Case
from medimind.cases.outcome import Duplicate, Rejection


@dataclass(frozen=True, slots=True)
class FileRead:
    """A file that was read.

    Attributes:
        path: As the recipe names it.
        schema: The schema found; ``None`` where no row could be read.
        columns: Role -> column, as they were read.
        rows: How many of its rows were taken.
        sha256: Of the file, or of the content of all rows of a data set on the hub.
    """

    path: str
    schema: str | None
    columns: Mapping[str, str]
    rows: int
    sha256: str


@dataclass(frozen=True, slots=True)
class SourceRead:
    """A source that was read; ``rows_in == kept + rejected + duplicates``."""

    name: str
    kind: str
    weight: float
    revision: str | None
    files: tuple[FileRead, ...]
    rows_in: int
    kept: int
    rejected: int
    duplicates: int


@dataclass(frozen=True, slots=True)
class LoadedCases:
    """The cases kept, and what became of every other row.

    Attributes:
        cases: In the order of the sources and their rows; ids are unique.
        weights: The weight of each case's source, aligned with ``cases``.
        rejections: Rows that cannot become cases.
        duplicates: Cases left out because they repeat a kept one.
        rows_in: Rows read; always ``len(cases) + len(rejections) + len(duplicates)``.
        sources: The same account by source.
        warnings: What the user should know; also logged.
    """

    cases: tuple[Case, ...]
    weights: tuple[float, ...]
    rejections: tuple[Rejection, ...]
    duplicates: tuple[Duplicate, ...]
    rows_in: int
    sources: tuple[SourceRead, ...]
    warnings: tuple[str, ...]

    def __post_init__(self) -> None:
        out = len(self.cases) + len(self.rejections) + len(self.duplicates)
        if self.rows_in != out or len(self.weights) != len(self.cases):
            raise AssertionError(f"{self.rows_in} rows in, {out} accounted for")

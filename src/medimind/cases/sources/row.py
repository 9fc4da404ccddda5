"""Rows as the readers give them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

MAX_ROW_CHARACTERS = 4 * 1024 * 1024
"""Longer rows are rejected; about a million tokens, far beyond any case."""

TOO_LONG = f"the row is longer than {MAX_ROW_CHARACTERS // (1024 * 1024)} million characters"
TOO_LONG_FIX = "Split the row, or check for a missing line break or closing quote"


@dataclass(frozen=True, slots=True)
class Row:
    """A row that could be read; ``line`` is where it starts in its file, counted from 1."""

    line: int
    fields: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be read."""

    line: int
    reason: str
    fix: str
    field: str | None = None


Rows = Iterator[Row | BadRow]

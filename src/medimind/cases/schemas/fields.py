"""Typed access to the columns of one row, by role."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

from medimind.cases.outcome import RowProblem
from medimind.cases.schemas.roles import suggest
from medimind.cases.sources.json_values import kind_of


class Fields:
    """One row, read by role.

    Args:
        row: Column -> value.
        columns: Role -> column.
    """

    def __init__(self, row: Mapping[str, Any], *, columns: Mapping[str, str]) -> None:
        self.row = row
        self.columns = columns

    def column(self, role: str) -> str:
        """The name to show for a role."""
        return self.columns.get(role, role)

    def value(self, role: str) -> Any:
        """The value of a role; ``None`` where it is missing, null or not a number."""
        value = self.row.get(self.columns[role]) if role in self.columns else None
        return None if isinstance(value, float) and math.isnan(value) else value

    def text(self, role: str) -> str:
        """The text of a role that must be there and hold more than white space.

        Raises:
            RowProblem: It is missing, empty, no text, or holds what cannot be stored.
        """
        text = self.optional_text(role)
        if text:
            return text
        column = self.column(role)
        if column in self.row:
            raise RowProblem("is empty", field=column, fix="Fill it in, or remove the row")
        close = suggest(column, self.row)
        raise RowProblem(
            "is missing",
            field=column,
            fix=f"Did you mean '{close}', which this row has?" if close else "Add it to the row",
        )

    def optional_text(self, role: str) -> str:
        """The text of a role, without white space around it; empty where there is none."""
        value = self.value(role)
        return "" if value is None else clean_text(value, field=self.column(role))

    def short_text(self, role: str) -> str | None:
        """A text or number as text; ``None`` where there is none."""
        value = self.value(role)
        if isinstance(value, int | float) and not isinstance(value, bool):
            value = str(value)
        if value is None:
            return None
        return clean_text(value, field=self.column(role)) or None

    def decoded(self, role: str) -> Any:
        """The value of a role; text that holds a JSON list or object is decoded."""
        value = self.value(role)
        if isinstance(value, str) and value.lstrip().startswith(("[", "{")):
            try:
                return json.loads(value)
            except (ValueError, RecursionError):
                return value
        return value


def clean_text(value: Any, *, field: str) -> str:
    """Text without white space around it, with line feeds as its only line breaks.

    Raises:
        RowProblem: The value is no text, or holds NUL or half of a surrogate pair.
    """
    if not isinstance(value, str):
        raise RowProblem(
            f"is {kind_of(value)} where text is expected", field=field, fix="Write it as text"
        )
    if "\0" in value:
        raise RowProblem("holds a NUL character", field=field, fix="Remove it")
    if not value.isascii():
        try:
            value.encode()
        except UnicodeEncodeError as error:
            raise RowProblem(
                "holds half of a surrogate pair, which is no character",
                field=field,
                fix="Write the file anew as UTF-8",
            ) from error
    return value.replace("\r\n", "\n").replace("\r", "\n").strip()

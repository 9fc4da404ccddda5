"""Rows of other programs' files, and the fields in them."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from medimind.cases.sources.files import read_rows
from medimind.cases.sources.row import BadRow
from medimind.errors import EvaluationError

_LINES = (".jsonl", ".ndjson")
_TABLES = (".csv", ".tsv", ".parquet")
_FIX = "Give JSON, JSONL, CSV or Parquet, one object or row an answer"


def read_document(path: Path) -> Any:
    """What a file holds: any JSON, or the list of its lines or rows.

    Raises:
        DataError: A table cannot be read.
        EvaluationError: The file cannot be read, or a line or row of it.
    """
    if path.suffix.lower() in _TABLES and path.is_file():
        return [_fields(path, row) for row in read_rows(path)]
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise _unreadable(path, error.strerror or str(error)) from None
    except UnicodeDecodeError:
        raise _unreadable(path, "it is not UTF-8") from None
    if path.suffix.lower() in _LINES:
        return _lines(path, text)
    try:
        return json.loads(text)
    except RecursionError as error:
        raise _unreadable(path, f"it is not JSON: {error}") from None
    except ValueError as error:
        if text.lstrip().startswith("{") and "\n" in text.strip():
            return _lines(path, text)  # lines under another name
        raise _unreadable(path, f"it is not JSON: {error}") from None


def at(document: Any, dotted: str, *, where: Path) -> Any:
    """What lies at a dotted path of objects.

    Raises:
        EvaluationError: There is no such path.
    """
    value = document
    for key in dotted.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise EvaluationError(
                f"there is no '{dotted}' in it",
                where=str(where),
                fix=f"Correct the mapping's path; what is there: {_names(value)}",
            )
        value = value[key]
    return value


def raw_field_of(value: Any, name: str) -> Any:
    """What lies at a dotted name; of a list on the way all members, joined if they are texts."""
    if name in (value if isinstance(value, Mapping) else ()):
        return value[name]
    first, _, rest = name.partition(".")
    inner = value.get(first) if isinstance(value, Mapping) else None
    if not rest or inner is None:
        return None
    if isinstance(inner, list):
        members = [raw_field_of(member, rest) for member in inner]
        is_text = all(isinstance(member, str) for member in members)
        return " ".join(members) if is_text else None
    return raw_field_of(inner, rest)


def field_of(value: Any, name: str) -> Any:
    """The same; a list of one member is that member, and NaN is nothing.

    A program that may give several outputs lists the one it gave; an empty cell of a table often
    becomes NaN.
    """
    found = raw_field_of(value, name)
    while isinstance(found, list) and len(found) == 1:
        found = found[0]
    return None if isinstance(found, float) and math.isnan(found) else found


def text_of(row: Mapping[str, Any], name: str, where: str) -> str:
    """A field as text; whole numbers without a point.

    Raises:
        EvaluationError: It is missing, or no text and no number.
    """
    value = field_of(row, name)
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if isinstance(value, list):
        raise EvaluationError(
            f"field '{name}' holds {len(value)} values",
            where=where,
            fix="Give each output a row of its own, and name the field of its number: sample",
        )
    if not isinstance(value, str):
        raise EvaluationError(
            f"field '{name}' is missing or no text",
            where=where,
            fix=f"Correct the mapping; fields that are there: {_names(row)}",
        )
    return value


def _lines(path: Path, text: str) -> list[Any]:
    rows = []
    for number, line in enumerate(text.split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise _unreadable(path, f"line {number} is not JSON: {error}") from None
    return rows


def _fields(path: Path, row: Any) -> dict[str, Any]:
    if isinstance(row, BadRow):
        raise EvaluationError(row.reason, where=f"{path}:{row.line}", fix=row.fix)
    return dict(row.fields)


def _unreadable(path: Path, reason: str) -> EvaluationError:
    return EvaluationError(f"cannot be read ({reason})", where=str(path), fix=_FIX)


def _names(value: Any) -> str:
    """The keys of an object, for a message."""
    keys = [str(key) for key in value] if isinstance(value, Mapping) else []
    return ", ".join(keys[:8]) or "no object"

"""JSON values decoded so that nothing in them can surprise later stages."""

from __future__ import annotations

import json
from typing import Any

from medimind.cases.outcome import RowProblem
from medimind.cases.sources.row import BadRow, Row

_LONGEST_INTEGER = 300


class DoubledKey(dict[str, Any]):
    """An object that names one of its keys twice; ``key`` is the first such."""

    key: str = ""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) == len(pairs):
        return values
    doubled = DoubledKey(values)
    seen: set[str] = set()
    for key, _ in pairs:
        if key in seen:
            doubled.key = key
            break
        seen.add(key)
    return doubled


def _integer(digits: str) -> int | float:
    return int(digits) if len(digits) <= _LONGEST_INTEGER else float(digits)


DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_int=_integer)


def decode(text: str) -> Any:
    """The one JSON value that ``text`` holds.

    Raises:
        RowProblem: It is not valid JSON, nests too deep, or text follows the value.
    """
    start = len(text) - len(text.lstrip())
    try:
        value, end = DECODER.raw_decode(text, start)
    except json.JSONDecodeError as error:
        raise RowProblem(
            f"the row is not valid JSON: {spoken(error)} at character {error.pos + 1}",
            fix="Correct the row, or write the file anew with a JSON library",
        ) from error
    except RecursionError as error:
        raise RowProblem("the row nests too deep", fix="Give plain fields with text") from error
    if text[end:].strip():
        raise RowProblem(
            f"more text follows the row's JSON value, from character {end + 1} on",
            fix="Put each row on a line of its own",
        )
    return value


def spoken(error: json.JSONDecodeError) -> str:
    """The decoder's complaint in lower case and without its trailing preposition."""
    return error.msg.removesuffix(" at").removesuffix(" starting").lower()


def as_row(line: int, value: Any) -> Row | BadRow:
    """A decoded value as a row, where it is an object."""
    if isinstance(value, DoubledKey):
        return BadRow(line, "the field is there twice in one row", "Keep one", field=value.key)
    if isinstance(value, dict):
        return Row(line, value)
    return BadRow(
        line,
        f"the row is {kind_of(value)} where an object is expected",
        'Write each row as {"field": "text", ...}',
    )


def kind_of(value: Any) -> str:
    """What a value is, in words."""
    if value is None:
        return "empty (null)"
    if isinstance(value, bool):
        return "true or false"
    if isinstance(value, int | float):
        return "a number"
    if isinstance(value, str):
        return "text"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, dict):
        return "an object"
    return f"of type {type(value).__name__}"

"""JSON files: an array of objects, an object of objects, or an object around an array."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, TextIO

from medimind.cases.sources.encoding import open_text
from medimind.cases.sources.json_values import DECODER, DoubledKey, as_row, spoken
from medimind.cases.sources.row import MAX_ROW_CHARACTERS, TOO_LONG, TOO_LONG_FIX, BadRow, Row, Rows
from medimind.errors import DataError

_CHUNK = 1 << 16
_SPACE = re.compile(r"[ \t\r\n]*")
_LIST_START = re.compile(r"\[\s*(\S)")
_NUMBER_MAY_GO_ON = re.compile(r"[-+.0-9a-zA-Z]")
_CUT_WORD = 12  # characters at the end of what was read that may be half of a word or an escape


def read_json(path: Path) -> Rows:
    """The rows of a JSON file, one in memory at a time.

    ``[{...}, ...]`` gives its elements. ``{"key": {...}, ...}`` gives the values, each with its
    key as field ``id`` where it has none. ``{"name": [{...}, ...]}`` gives the elements of the
    first list. Any other object is one row.

    Raises:
        DataError: The file is not JSON text, or is cut off: what follows cannot be found then.
    """
    with open_text(path) as file:
        window = _Window(path, file)
        opening = window.peek()
        if opening == "[":
            yield from _elements(window)
        elif opening == "{":
            yield from _members(window)
        else:
            raise window.damaged("a JSON file starts with [ or {")
        if window.peek():
            raise window.damaged("text follows the end of the JSON value")


def _elements(window: _Window) -> Rows:
    window.take("[")
    if window.peek() == "]":
        window.take("]")
        return
    while True:
        window.peek()
        line = window.line
        value = window.value()
        yield value if isinstance(value, BadRow) else as_row(line, value)
        if window.peek() == ",":
            window.take(",")
            continue
        window.take("]")
        return


def _members(window: _Window) -> Rows:
    window.take("{")
    start = window.line
    rest: dict[str, Any] = {}
    num_rows = 0
    more = window.peek() == '"'
    while more:
        key = window.value()
        window.take(":")
        opening = window.peek()
        line = window.line
        if opening == "[" and not rest and not num_rows and window.list_of_objects():
            for row in _elements(window):
                num_rows += 1
                yield row
        else:
            value = window.value()
            if isinstance(value, dict | BadRow) and not rest:
                num_rows += 1
                yield _keyed(line, key, value)
            else:
                rest[str(key)] = value
        more = window.peek() == ","
        if more:
            window.take(",")
            if window.peek() != '"':
                raise window.damaged("a key in quotes is missing")
    window.take("}")
    if rest and not num_rows:
        yield Row(start, rest)


def _keyed(line: int, key: Any, value: dict[str, Any] | BadRow) -> Row | BadRow:
    if isinstance(value, BadRow):
        return value
    if not isinstance(value, DoubledKey):
        value = {"id": key, **value}
    return as_row(line, value)


class _Window:
    """The part of the file in memory, and the line its start is on."""

    def __init__(self, path: Path, file: TextIO) -> None:
        self._path = path
        self._file = file
        self._text = ""
        self._at = 0
        self._ended = False
        self.line = 1

    def peek(self) -> str:
        """The next character that is not white space; empty at the end of the file."""
        while True:
            end = _SPACE.match(self._text, self._at).end()  # pyright: ignore[reportOptionalMemberAccess]
            self._advance(end)
            if self._at < len(self._text) or not self._more(_CHUNK):
                return self._text[self._at : self._at + 1]

    def take(self, character: str) -> None:
        """Pass ``character``, which must come next."""
        found = self.peek()
        if found != character:
            what = f"'{character}' is missing" if found else "the file ends in the middle"
            raise self.damaged(what)
        self._advance(self._at + 1)

    def list_of_objects(self) -> bool:
        """Whether the list that comes next is empty or starts with an object."""
        while True:
            found = _LIST_START.match(self._text, self._at)
            if found:
                return found.group(1) in "{]"
            if self._length() > MAX_ROW_CHARACTERS or not self._more(_CHUNK):
                return False

    def value(self) -> Any:
        """The next JSON value, or a ``BadRow`` where it is longer than a row may be."""
        self.peek()
        size = _CHUNK
        while True:
            try:
                value, end = DECODER.raw_decode(self._text, self._at)
            except json.JSONDecodeError as error:
                if self._is_cut(error) and self._length() <= MAX_ROW_CHARACTERS:
                    if self._more(size):
                        size *= 2
                        continue
                    raise self.damaged("the file ends in the middle of a value") from error
                if self._is_cut(error):
                    raise self.damaged(TOO_LONG, fix=TOO_LONG_FIX) from error
                self._advance(error.pos)
                raise self.damaged(spoken(error)) from error
            except RecursionError as error:
                raise self.damaged("a value nests too deep") from error
            ends_here = end == len(self._text)
            if ends_here and _NUMBER_MAY_GO_ON.match(self._text[-1]) and self._more(size):
                size *= 2
                continue
            if end - self._at > MAX_ROW_CHARACTERS:
                value = BadRow(self.line, TOO_LONG, TOO_LONG_FIX)
            self._advance(end)
            return value

    def _is_cut(self, error: json.JSONDecodeError) -> bool:
        """Whether the value may only seem wrong because the rest of it was not read yet."""
        near_end = error.pos >= len(self._text) - _CUT_WORD
        return near_end or error.msg.startswith("Unterminated string")

    def _length(self) -> int:
        return len(self._text) - self._at

    def damaged(self, what: str, *, fix: str | None = None) -> DataError:
        """The error for a file that cannot be read on."""
        return DataError(
            f"the file is not valid JSON here: {what}",
            where=f"{self._path}:{self.line}",
            fix=fix or "Write the file anew with a JSON library, or fetch it again",
        )

    def _advance(self, to: int) -> None:
        self.line += self._text.count("\n", self._at, to)
        self._at = to

    def _more(self, size: int) -> bool:
        read = "" if self._ended else self._file.read(size)
        if not read:
            self._ended = True
            return False
        self._text = self._text[self._at :] + read
        self._at = 0
        return True

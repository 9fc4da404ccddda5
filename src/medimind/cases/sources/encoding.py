"""Text files opened in the encoding they are in, or refused with the place of the bad byte."""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from medimind.cases.sources.row import MAX_ROW_CHARACTERS
from medimind.errors import DataError

_BOMS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_CHUNK = 1 << 16


def detect_encoding(path: Path) -> str:
    """The encoding named by the file's byte order mark, else UTF-8.

    Raises:
        DataError: The file is empty, or holds so many NUL bytes that it is not text.
    """
    with path.open("rb") as file:
        head = file.read(4096)
    if not head:
        raise DataError("the file is empty", where=str(path), fix="Give a file with rows")
    for bom, encoding in _BOMS:
        if head.startswith(bom):
            return encoding
    if head.count(0) * 8 > len(head):
        raise DataError(
            "the file holds NUL bytes: it is binary, or UTF-16 without a byte order mark",
            where=str(path),
            fix="Save it as UTF-8 text",
        )
    return "utf-8"


@contextmanager
def open_text(path: Path, *, newline: str | None = None) -> Iterator[TextIO]:
    """The file as text; UTF-8 with or without BOM, and UTF-16 or UTF-32 with BOM.

    Raises:
        DataError: It cannot be opened, is empty, or holds bytes of another encoding.
    """
    encoding = "utf-8"
    try:
        encoding = detect_encoding(path)
        with path.open(encoding=encoding, newline=newline) as file:
            yield file
    except UnicodeError as error:
        raise DataError(
            f"the file is not valid {_spoken(encoding)}: {_first_bad_byte(path, encoding)}",
            where=str(path),
            fix="Save it as UTF-8, for example: iconv -f latin1 -t utf-8 OLD > NEW",
        ) from error
    except OSError as error:
        raise unreadable(path, error) from error


def unreadable(path: Path, error: OSError) -> DataError:
    """The error for a file that the system refuses to read."""
    return DataError(
        f"the file cannot be read ({error.strerror or type(error).__name__})",
        where=str(path),
        fix="Check the path and its permissions",
    )


def read_lines(file: TextIO) -> Iterator[tuple[int, str | None]]:
    """Number and text of each line; ``None`` for one longer than ``MAX_ROW_CHARACTERS``."""
    number = 0
    while line := file.readline(MAX_ROW_CHARACTERS + 1):
        number += 1
        if len(line) <= MAX_ROW_CHARACTERS or line.endswith("\n"):
            yield number, line
            continue
        while line and not line.endswith(("\n", "\r")):
            line = file.readline(MAX_ROW_CHARACTERS)
        yield number, None


def _spoken(encoding: str) -> str:
    return encoding.removesuffix("-sig").upper()


def _first_bad_byte(path: Path, encoding: str) -> str:
    decoder = codecs.getincrementaldecoder(encoding)()
    line = 1
    with path.open("rb") as file:
        while True:
            chunk = file.read(_CHUNK)
            try:
                text = decoder.decode(chunk, final=not chunk)
            except UnicodeDecodeError as error:
                good = error.object[: error.start].decode(encoding, errors="ignore")
                byte = error.object[error.start]
                return f"byte 0x{byte:02x} in line {line + good.count(chr(10))}"
            except UnicodeError as error:
                return str(error)
            if not chunk:
                return "its end is cut off"
            line += text.count("\n")

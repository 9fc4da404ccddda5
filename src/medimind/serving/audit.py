"""The audit log: who asked when, and hashes of what was said, each line chained to the one before.

No text is kept. Whoever has a text can show that it was asked or answered; a line that was changed,
moved or taken out breaks the chain at that place. Cutting lines off the end shows only beside a
copy of a later hash, so keep one elsewhere: `medimind serve --check-audit FILE` prints it.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from medimind.errors import DataError

_START = "0" * 64
_KEEP = "Keep the file as it is, for whoever looks into it, and log into another with --audit"


class AuditLog:
    """Appends to a log of which every earlier line was checked.

    Args:
        path: The file; made, for its owner only, where there is none.

    Raises:
        DataError: If the chain of an existing file is broken, or the file cannot be written.
    """

    def __init__(self, path: Path) -> None:
        self._hash, self._count = check_log(path) if path.exists() else (_START, 0)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            handle = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        except OSError as error:
            raise DataError(
                f"cannot be written ({error.strerror})",
                where=str(path),
                fix="Choose another file with --audit",
            ) from None
        self._file = os.fdopen(handle, "w", encoding="utf-8")

    def record(self, **facts: Any) -> None:
        """Add a line."""
        self._count += 1
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        line = {"number": self._count, "time": now, **facts, "before": self._hash}
        self._hash = _hash_line(line)
        self._file.write(json.dumps({**line, "hash": self._hash}, ensure_ascii=False) + "\n")
        self._file.flush()

    def close(self) -> None:
        """Bring it to the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def check_log(path: Path) -> tuple[str, int]:
    """Hash of the last line and the number of lines.

    Raises:
        DataError: If a line was changed, moved or taken out, named by its number.
    """
    before, count = _START, 0
    for count, line in enumerate(_lines(path), 1):
        where = f"{path}:{count}"
        told = line.pop("hash", None)
        if line.get("before") != before or line.get("number") != count:
            raise DataError(
                "lines before this one were changed or taken out", where=where, fix=_KEEP
            )
        if told != _hash_line(line):
            raise DataError("this line was changed", where=where, fix=_KEEP)
        before = told
    return before, count


def hash_chat(messages: Sequence[tuple[str, str]]) -> str:
    """SHA-256 of a chat, as JSON ``[["user", "text"], ...]`` without spaces."""
    return hash_text(json.dumps(messages, ensure_ascii=False, separators=(",", ":")))


def hash_text(text: str) -> str:
    """SHA-256 of a text in UTF-8."""
    return hash_bytes(text.encode("utf-8", "surrogatepass"))


def hash_bytes(content: bytes) -> str:
    """SHA-256 of a file's bytes."""
    return hashlib.sha256(content).hexdigest()


def _hash_line(line: dict[str, Any]) -> str:
    return hash_text(json.dumps(line, sort_keys=True, ensure_ascii=False, separators=(",", ":")))


def _lines(path: Path) -> Iterator[dict[str, Any]]:
    try:
        with path.open(encoding="utf-8") as file:
            for number, text in enumerate(file, 1):
                try:
                    line = json.loads(text)
                except ValueError:
                    line = None
                if not isinstance(line, dict) or not text.endswith("\n"):
                    raise DataError("this line is damaged", where=f"{path}:{number}", fix=_KEEP)
                yield line
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"cannot be read ({error})", where=str(path)) from None

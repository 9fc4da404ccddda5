"""The memory of one card, shared by processes that each measure only their own.

Torch counts the peak of a process whatever others do, so memory can be measured in several at once;
they only must not want more together than the card has. Each says here what it is about to take,
and waits until there is room.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Room:
    """A file that says how many bytes each process takes.

    Args:
        file: Where it lies; all processes name the same.
        total: Bytes that all of them may take together.
        patience: Seconds to wait for room.
    """

    def __init__(self, file: Path, *, total: int, patience: float = 150.0) -> None:
        self.file, self.total, self.patience = file, total, patience

    def take(self, wanted: int, *, meanwhile: int = 0) -> bool:
        """Wait until so many bytes are left by the others, and take them.

        Args:
            wanted: Bytes that this process takes in all from now on.
            meanwhile: Bytes that it holds while it waits, so that others can go on.

        Returns:
            Whether there was room in time; if not, ``meanwhile`` is what it has.
        """
        end = time.monotonic() + self.patience
        while True:
            with self._entries() as entries:
                entries[str(os.getpid())] = meanwhile
                if sum(entries.values()) - meanwhile + wanted <= self.total:
                    entries[str(os.getpid())] = wanted
                    return True
            if time.monotonic() > end:
                return False
            time.sleep(0.2)

    def note(self, process: int, taken: int) -> None:
        """Say what another process takes."""
        with self._entries() as entries:
            entries[str(process)] = taken

    def leave(self, process: int) -> None:
        """Say that another process takes nothing any more."""
        with self._entries() as entries:
            entries.pop(str(process), None)

    @contextmanager
    def _entries(self) -> Iterator[dict[str, int]]:
        with self.file.open("a+", encoding="utf-8") as opened:
            fcntl.flock(opened, fcntl.LOCK_EX)
            opened.seek(0)
            entries: dict[str, int] = json.loads(opened.read() or "{}")
            yield entries
            opened.seek(0)
            opened.truncate()
            opened.write(json.dumps(entries))

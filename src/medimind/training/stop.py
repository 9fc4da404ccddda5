"""Ending cleanly: on a signal, and before a time limit."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType

_log = logging.getLogger(__name__)

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class SignalStop:
    """While entered, the first SIGINT or SIGTERM asks for a stop; the second kills.

    Handlers are installed from the main thread only, because Python allows it nowhere else; they
    are put back at the end.

    Attributes:
        requested: Whether a signal has come.
    """

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, object] = {}

    def __enter__(self) -> SignalStop:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler or signal.SIG_DFL)  # type: ignore[arg-type]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.requested = True
        _log.warning(
            "%s received: finishing this step, saving, then ending; once more kills at once",
            signal.Signals(number).name,
        )


class TimeLimit:
    """Says when another step might not end, and be saved, before the limit.

    Kept back are twice the longest save so far and at least 2 % of the limit (60 s at most), so
    that the adapter is on the disk when a machine that is lent for hours is taken away.

    Args:
        hours: The limit; ``None`` never stops.
        started: When the time began to run, on ``clock``; ``None`` means now.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        hours: float | None,
        *,
        started: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._clock = clock
        self._started = clock() if started is None else started
        self._seconds = None if hours is None else hours * 3600
        self._longest = {"step": 0.0, "save": 0.0, "evaluation": 0.0}

    def note(self, what: str, seconds: float) -> None:
        """Remember how long a ``step``, ``save`` or ``evaluation`` took."""
        self._longest[what] = max(self._longest[what], seconds)

    def leaves_no_step(self) -> bool:
        """Whether the longest step, evaluation and save seen would not fit any more."""
        if self._seconds is None:
            return False
        margin = max(2 * self._longest["save"], min(60.0, 0.02 * self._seconds))
        needed = self._longest["step"] + self._longest["evaluation"] + margin
        return self._clock() - self._started + needed > self._seconds

"""Several trackers as one, none of which can end a run."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from medimind.tracking.tracker import Scalar, Tracker

_log = logging.getLogger(__name__)


class MultiTracker:
    """Passes everything on to each tracker, and outlives their failures.

    A tracker that raises is named once in a warning and tried again the next time, as after a
    lost network; its failures are counted.

    Attributes:
        failures: Name of a tracker's class -> how many of its calls failed.
    """

    def __init__(self, trackers: Sequence[Tracker]) -> None:
        self._trackers = tuple(trackers)
        self.failures: dict[str, int] = {}

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record the metrics of one step with each tracker."""
        for tracker in self._trackers:
            try:
                tracker.log(metrics, step=step)
            except Exception as error:
                self.count_failure(tracker, error)

    def log_table(
        self, name: str, *, columns: Sequence[str], rows: Sequence[Sequence[Scalar]]
    ) -> None:
        """Record a table with each tracker."""
        for tracker in self._trackers:
            try:
                tracker.log_table(name, columns=columns, rows=rows)
            except Exception as error:
                self.count_failure(tracker, error)

    def finish(self, summary: Mapping[str, Scalar]) -> None:
        """Close each tracker; failures so far are part of the summary."""
        failed: dict[str, Scalar] = {
            f"tracking_failures/{name}": count for name, count in self.failures.items()
        }
        for tracker in self._trackers:
            try:
                tracker.finish({**summary, **failed})
            except Exception as error:
                self.count_failure(tracker, error)

    def count_failure(self, tracker: object, error: Exception) -> None:
        """Count a failed call; warn the first time."""
        name = tracker if isinstance(tracker, str) else type(tracker).__name__
        if name not in self.failures:
            _log.warning(
                "%s failed and may miss figures of this run (%s: %s); training goes on",
                name,
                type(error).__name__,
                error,
            )
        self.failures[name] = self.failures.get(name, 0) + 1

"""Metrics as lines of the log."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence

from medimind.tracking.tracker import Scalar

_log = logging.getLogger(__name__)

_PIECES = (
    ("train/loss", "loss {:.4f}"),
    ("held_out/loss", "held-out loss {:.4f}"),
    ("train/learning_rate", "lr {:.3g}"),
    ("train/gradient_norm", "gradient norm {:.3g}"),
    ("train/tokens_per_second", "{:,.0f} tokens/s"),
    ("train/peak_memory_gib", "{:.2f} GiB"),
    ("train/overflows", "{:.0f} fp16 overflows"),
)


class ConsoleTracker:
    """Logs the first row of every so many steps at level INFO; held-out losses always.

    Args:
        every: Steps of which one line is shown.
    """

    def __init__(self, *, every: int = 10) -> None:
        self._every = every
        self._shown: int | None = None

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Log one line, such as ``step 20: loss 1.2345, lr 0.0002``."""
        block = step // self._every
        if block == self._shown and "held_out/loss" not in metrics:
            return
        self._shown = block
        text = ", ".join(form.format(metrics[name]) for name, form in _PIECES if metrics.get(name))
        _log.info("step %d: %s", step, text)

    def log_table(
        self, name: str, *, columns: Sequence[str], rows: Sequence[Sequence[Scalar]]
    ) -> None:
        """Log a table's size only: its cells may hold patients' text."""
        _log.info("table %s: %d rows of %s", name, len(rows), ", ".join(columns))

    def finish(self, summary: Mapping[str, Scalar]) -> None:
        """Log the final figures."""
        _log.info("run ended: %s", ", ".join(f"{name} {value}" for name, value in summary.items()))

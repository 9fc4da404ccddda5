"""The border between a run and whatever records it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

Scalar = float | int | str | None


class Tracker(Protocol):
    """Something that records a run.

    Metric names are ``train/loss``, ``train/learning_rate``, ``train/gradient_norm``,
    ``train/tokens_per_second``, ``train/target_tokens``, ``train/epoch``,
    ``train/peak_memory_gib`` and ``held_out/loss``; in fp16 also ``train/loss_scale`` and
    ``train/overflows``. Figures are those of the step itself, not averages since the last row;
    the gradient norm is that before clipping.
    """

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record the metrics of one optimizer step, counted from 1."""
        ...

    def log_table(
        self, name: str, *, columns: Sequence[str], rows: Sequence[Sequence[Scalar]]
    ) -> None:
        """Record a table, such as the before/after comparison."""
        ...

    def finish(self, summary: Mapping[str, Scalar]) -> None:
        """Record the run's final figures and close."""
        ...

"""Training curves and the table of the training loss, from the rows of metrics.jsonl."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

_TABLE_EVERY = 10


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A row of the table: mean training loss since the row above, held-out loss where measured."""

    step: int
    loss: float
    held_out_loss: float | None


def curve(rows: Sequence[Mapping[str, Any]], name: str) -> list[tuple[int, float]]:
    """Steps and values of one metric, ascending; what is not a finite number is left out."""
    found: dict[int, float] = {}
    for row in rows:
        step, value = row.get("step"), row.get(name)
        if isinstance(step, int) and isinstance(value, (int, float)) and math.isfinite(value):
            found[step] = float(value)
    return sorted(found.items())


def training_rows(rows: Sequence[Mapping[str, Any]]) -> tuple[TrainingRow, ...]:
    """Every tenth step and the last one, with the mean training loss since the row above."""
    losses, held_out = curve(rows, "train/loss"), dict(curve(rows, "held_out/loss"))
    table: list[TrainingRow] = []
    waiting: list[float] = []
    above = 0
    for index, (step, loss) in enumerate(losses):
        waiting.append(loss)
        if step % _TABLE_EVERY == 0 or index == len(losses) - 1:
            measured = [at for at in held_out if above < at <= step]
            table.append(
                TrainingRow(
                    step,
                    math.fsum(waiting) / len(waiting),
                    held_out[max(measured)] if measured else None,
                )
            )
            waiting, above = [], step
    return tuple(table)

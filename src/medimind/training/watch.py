"""What ends a run at once: figures that are not finite, and training that teaches nothing."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from medimind.errors import NonFiniteError, TrainingError
from medimind.packing.batch import PackedBatch

_MOST_IDS = 16


def require_targets(batches: Sequence[PackedBatch], *, step: int) -> None:
    """Refuse a step without a single target token.

    Raises:
        TrainingError: All labels of the step are masked.
    """
    if not any(batch.num_targets for batch in batches):
        raise TrainingError(
            "no token of this step is a target, so nothing would be learned",
            where=f"step {step}, {describe(batches)}",
            fix="Look at the label audit of 'medimind data'; the template may mask every output",
        )


def require_finite_losses(
    losses: Sequence[float], batches: Sequence[PackedBatch], *, when: str
) -> None:
    """Refuse a loss that is NaN or infinite.

    Raises:
        NonFiniteError: Names the moment, the micro-batch and its cases.
    """
    for index, loss in enumerate(losses):
        if not math.isfinite(loss):
            raise _non_finite(f"the loss became {loss}", batches, index=index, when=when)


def raise_non_finite_gradient(
    batches: Sequence[PackedBatch], *, step: int, is_finite: Callable[[PackedBatch, int], bool]
) -> None:
    """Find the micro-batch whose gradient is not finite, by trying each alone, and name it.

    Args:
        batches: The step's micro-batches.
        step: The step, counted from 1.
        is_finite: Whether the gradient of one micro-batch (with its index) is finite.

    Raises:
        NonFiniteError: Always.
    """
    for index, batch in enumerate(batches):
        if not is_finite(batch, index):
            what = "the gradient became non-finite"
            raise _non_finite(what, batches, index=index, when=f"step {step}")
    raise NonFiniteError(
        "the gradient became non-finite when the micro-batches were added up",
        where=f"step {step}, {describe(batches)}",
        fix=_FIX,
    )


def require_gradient(norm: float, batches: Sequence[PackedBatch], *, step: int) -> None:
    """Refuse a gradient that is zero in every element.

    Raises:
        TrainingError: The adapter does not take part in the loss.
    """
    if norm == 0.0:
        raise TrainingError(
            "every gradient of the adapter is exactly zero, so nothing would be learned",
            where=f"step {step}, {describe(batches)}",
            fix="Check that the adapter is attached and enabled, and that rows have target tokens",
        )


def describe(batches: Sequence[PackedBatch]) -> str:
    """The cases of some micro-batches, by id."""
    ids = [case_id for batch in batches for case_id in batch.case_ids]
    more = f" and {len(ids) - _MOST_IDS} more" if len(ids) > _MOST_IDS else ""
    return f"cases {', '.join(ids[:_MOST_IDS])}{more}"


def _non_finite(
    what: str, batches: Sequence[PackedBatch], *, index: int, when: str
) -> NonFiniteError:
    return NonFiniteError(
        what,
        where=f"{when}, micro-batch {index + 1} of {len(batches)}, {describe([batches[index]])}",
        fix=_FIX,
    )


_FIX = (
    "Nothing of this step was kept; the last checkpoint is sound. Look at these cases, lower "
    "train.learning_rate, or set model.dtype to bfloat16 or float32"
)

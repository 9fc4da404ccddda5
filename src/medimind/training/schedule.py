"""Learning rate of each step, equal to transformers' schedules."""

from __future__ import annotations

import math
from typing import Literal

Schedule = Literal["linear", "cosine", "constant"]


def learning_rate(
    step: int,
    *,
    peak: float,
    schedule: Schedule,
    warmup_steps: int,
    num_steps: int,
    final_share: float = 0.0,
) -> float:
    """The learning rate of one optimizer step.

    With a ``final_share`` of 0 these are the values of transformers'
    ``get_{linear,cosine,constant}_schedule_with_warmup``, bit for bit:

    ```
    step           0    1   ...  warmup_steps   ...   num_steps
    rate           0    up  ...  peak           down  final_share * peak
    ```

    So with warm-up the first step has rate 0, as in the Hugging Face Trainer, and the last one
    taken (``num_steps - 1``) is one notch above the end.

    Args:
        step: Optimizer steps taken before this one; 0 for the first.
        peak: Highest rate.
        schedule: How the rate falls after the warm-up; ``constant`` stays.
        warmup_steps: Steps over which it rises linearly from 0.
        num_steps: Optimizer steps of the whole run.
        final_share: Share of the peak that ``linear`` and ``cosine`` fall to.
    """
    if step < warmup_steps:
        return peak * (step / max(1, warmup_steps))
    if schedule == "constant":
        return peak
    if schedule == "linear":
        left = max(0.0, (num_steps - step) / max(1, num_steps - warmup_steps))
    else:
        done = (step - warmup_steps) / max(1, num_steps - warmup_steps)
        left = max(0.0, 0.5 * (1.0 + math.cos(math.pi * min(1.0, done))))
    return peak * (final_share + (1.0 - final_share) * left)

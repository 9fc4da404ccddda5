"""One optimizer step: micro-batches in, changed adapter out."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from medimind.packing.batch import PackedBatch
from medimind.training.loss_scale import LossScale
from medimind.training.watch import (
    raise_non_finite_gradient,
    require_finite_losses,
    require_gradient,
    require_targets,
)

LossSum = Callable[[PackedBatch, int], torch.Tensor]
"""Loss SUM over a micro-batch's targets (float32 scalar), given the seed of its dropout."""


@dataclass(frozen=True, slots=True)
class StepResult:
    """Figures of one step.

    Attributes:
        loss: Mean over the step's target tokens (nats), before the update.
        gradient_norm: L2 norm over all parameters, before clipping.
        num_targets: Target tokens of the step.
        num_tokens: Tokens of the step's cases, padding left out.
        num_micro_batches: Forward and backward passes.
        loss_scale: The scale of the next step.
    """

    loss: float
    gradient_norm: float
    num_targets: int
    num_tokens: int
    num_micro_batches: int
    loss_scale: LossScale


def take_step(
    batches: Sequence[PackedBatch],
    *,
    step: int,
    seed: int,
    loss_sum: LossSum,
    parameters: Sequence[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    learning_rate: float,
    max_gradient_norm: float | None,
    loss_scale: LossScale,
) -> StepResult:
    """Change the parameters by one AdamW update.

    The gradient is that of ``sum of losses / target tokens of the whole step``, so it does not
    depend on how the step's cases were packed into micro-batches.

    Args:
        batches: All micro-batches of the step.
        step: The step, counted from 1, for messages and dropout.
        seed: The run's seed; dropout is a pure function of (seed, step, micro-batch).
        loss_sum: Loss of one micro-batch.
        parameters: What is trained.
        optimizer: Holds the parameters in one group.
        learning_rate: This step's rate.
        max_gradient_norm: Gradients are scaled down to this norm.
        loss_scale: Factor of the loss (fp16).

    Raises:
        NonFiniteError: Loss or gradient is not finite; parameters and optimizer are untouched.
        TrainingError: The step has no target, or every gradient is zero.
    """
    require_targets(batches, step=step)
    batches = [batch for batch in batches if batch.num_targets]
    num_targets = sum(batch.num_targets for batch in batches)
    seeds = [dropout_seed(seed, step, index) for index in range(len(batches))]
    while True:
        losses = _accumulate(batches, seeds, loss_sum, optimizer, loss_scale.value / num_targets)
        require_finite_losses(losses, batches, when=f"step {step}")
        gradients = [p.grad for p in parameters if p.grad is not None]
        if loss_scale.value != 1.0:
            for gradient in gradients:
                gradient.mul_(1.0 / loss_scale.value)
        norm_tensor = get_total_norm(gradients)
        norm = float(norm_tensor)
        if math.isfinite(norm):
            break
        if loss_scale.can_shrink:
            loss_scale = loss_scale.after_overflow()
            continue
        _name_culprit(batches, seeds, step, loss_sum, parameters, optimizer, num_targets)
    require_gradient(norm, batches, step=step)
    if max_gradient_norm is not None:
        clip_grads_with_norm_(parameters, max_gradient_norm, norm_tensor)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return StepResult(
        loss=math.fsum(losses) / num_targets,
        gradient_norm=norm,
        num_targets=num_targets,
        num_tokens=sum(num_case_tokens(batch) for batch in batches),
        num_micro_batches=len(batches),
        loss_scale=loss_scale.after_step(),
    )


def mean_loss(batches: Sequence[PackedBatch], *, loss_sum: LossSum, step: int) -> float:
    """Mean loss over all target tokens (nats), one micro-batch in memory at a time, no gradient.

    Args:
        batches: Micro-batches; at least one has a target.
        loss_sum: Loss of one micro-batch, without dropout.
        step: Steps taken so far, for messages.

    Raises:
        NonFiniteError: A loss is not finite.
    """
    with torch.no_grad():
        losses = [float(loss_sum(batch, 0)) for batch in batches]
    require_finite_losses(losses, batches, when=f"held-out loss after step {step}")
    return math.fsum(losses) / sum(batch.num_targets for batch in batches)


def num_case_tokens(batch: PackedBatch) -> int:
    """Tokens of a micro-batch's cases, padding left out."""
    return int(batch.cu_seqlens[len(batch.case_ids)])


def dropout_seed(seed: int, step: int, micro_batch: int) -> int:
    """A seed below 2^62 for one micro-batch's dropout masks."""
    words = np.random.SeedSequence([seed, step, micro_batch]).generate_state(1, np.uint64)
    return int(words[0]) >> 2


def _accumulate(
    batches: Sequence[PackedBatch],
    seeds: Sequence[int],
    loss_sum: LossSum,
    optimizer: torch.optim.Optimizer,
    factor: float,
) -> list[float]:
    """Gradients of ``factor * sum of losses``; the losses leave the device once, at the end."""
    optimizer.zero_grad(set_to_none=True)
    losses = []
    for batch, seed in zip(batches, seeds, strict=True):
        loss = loss_sum(batch, seed)
        (loss * factor).backward()
        losses.append(loss.detach())
    return torch.stack(losses).tolist()


def _name_culprit(
    batches: Sequence[PackedBatch],
    seeds: Sequence[int],
    step: int,
    loss_sum: LossSum,
    parameters: Sequence[torch.nn.Parameter],
    optimizer: torch.optim.Optimizer,
    num_targets: int,
) -> None:
    def is_finite(batch: PackedBatch, index: int) -> bool:
        _accumulate([batch], [seeds[index]], loss_sum, optimizer, 1.0 / num_targets)
        norm = get_total_norm([p.grad for p in parameters if p.grad is not None])
        return math.isfinite(float(norm))

    try:
        raise_non_finite_gradient(batches, step=step, is_finite=is_finite)
    finally:
        optimizer.zero_grad(set_to_none=True)

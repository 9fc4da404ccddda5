"""The fused step where training expects a loss to differentiate."""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from medimind.errors import TrainingError
from medimind.kernels.attention.footprint import card_of
from medimind.kernels.int8 import Int8Weight
from medimind.models.decoder import Decoder
from medimind.models.fused.fp8_weights import why_no_fp8
from medimind.models.fused.group import fuse_layer
from medimind.models.fused.plan import StepPlan
from medimind.models.fused.planner import (
    RESERVE,
    Limits,
    Memory,
    available_on,
    choose_plan,
    choose_tokens,
    does_not_fit,
)
from medimind.models.fused.step import FusedStep, why_unsupported
from medimind.models.fused.workload import Workload
from medimind.models.loss import batch_loss
from medimind.packing.batch import PackedBatch

logger = logging.getLogger(__name__)

BatchLoss = Callable[[PackedBatch], torch.Tensor]
"""Sum of the losses at a batch's targets, differentiable with respect to the adapter."""


def training_loss(
    decoder: Decoder,
    *,
    num_tokens: int,
    rows: int = 8,
    longest: int | None = None,
    memory: Memory = "auto",
    fp8: bool = False,
    deterministic: bool = True,
    moment_bytes: int = 4,
) -> BatchLoss:
    """The fastest loss for this decoder and card.

    Args:
        decoder: With an adapter.
        num_tokens: No batch has more tokens.
        rows: No batch has more rows.
        longest: No row has more tokens; ``None``: one may fill a batch.
        memory: How the step may trade memory for time.
        fp8: Multiply with the frozen weights in fp8.
        deterministic: Sum in a fixed order everywhere.
        moment_bytes: Bytes of one moment of the optimizer, which is not there yet.

    Returns:
        The fused step on CUDA where the model and the adapter allow it, else ``batch_loss``; the
        log says which and why.

    Raises:
        TrainingError: The step does not fit into the card's memory, or fp8 cannot be had.
    """
    reason = why_unsupported(decoder)
    if decoder.device.type != "cuda":
        reason = "it needs a CUDA card"
    if reason is None:
        shape = {"num_tokens": num_tokens, "rows": rows, "longest": longest}
        work = _workload(decoder, moment_bytes=moment_bytes, **shape)
        plan = _plan(decoder, work, memory=memory, fp8=fp8, deterministic=deterministic)
        logger.info("fused training step: %s", plan)
        return FusedLoss(decoder, num_tokens=num_tokens, plan=plan)
    if fp8:
        raise TrainingError(
            f"fp8 needs the fused training step, which is off: {reason}",
            where="train.precision",
            fix="Set train.precision=dtype",
        )
    if decoder.device.type == "cuda":
        logger.warning("the fused training step is off: %s", reason)
    return lambda batch: batch_loss(decoder, batch)


def micro_batch_tokens(
    decoder: Decoder,
    *,
    longest: int,
    batch_size: int,
    memory: Memory = "auto",
    fp8: bool = False,
    deterministic: bool = True,
    moment_bytes: int = 4,
) -> int:
    """Tokens of a micro-batch where the recipe leaves them open.

    They follow from the card's size, not from what is free just now: a resumed run takes the same.

    Args:
        decoder: With an adapter.
        longest: No row has more tokens.
        batch_size: Rows of a step.
        memory: How the step may trade memory for time.
        fp8: Multiply with the frozen weights in fp8.
        deterministic: Sum in a fixed order everywhere.
        moment_bytes: Bytes of one moment of the optimizer.
    """
    if decoder.device.type != "cuda" or why_unsupported(decoder) is not None:
        return longest
    total = torch.cuda.get_device_properties(decoder.device).total_memory
    limits = Limits(available_on(total), memory=memory, fp8=fp8, deterministic=deterministic)
    shape = {"num_tokens": longest, "rows": batch_size, "longest": longest}
    work = _workload(decoder, moment_bytes=moment_bytes, **shape)
    return choose_tokens(work, limits, longest=longest, batch_size=batch_size)


def _workload(
    decoder: Decoder, *, num_tokens: int, rows: int, longest: int | None, moment_bytes: int
) -> Workload:
    assert decoder.lora is not None
    projection = decoder.layers[0].self_attn.q_proj
    return Workload(
        architecture=decoder.architecture,
        num_tokens=num_tokens,
        item=decoder.dtype.itemsize,
        rank=decoder.lora.rank,
        targets=decoder.lora.targets,
        nf4=projection.nf4 is not None,
        double_quantized=projection.nf4 is not None and projection.nf4.double_quantized,
        int8_tables=isinstance(decoder.head, Int8Weight),
        moment_bytes=moment_bytes,
        cards=(card_of(decoder.device),),
        rows=rows,
        longest=longest,
    )


def _plan(
    decoder: Decoder, work: Workload, *, memory: Memory, fp8: bool, deterministic: bool
) -> StepPlan:
    if fp8 and (reason := why_no_fp8([fuse_layer(decoder.layers[0])], decoder.device)):
        raise TrainingError(
            f"no fp8: {reason}", where="train.precision", fix="Set train.precision=dtype"
        )
    decoder.generation = None  # its dense weights and cache
    torch.cuda.empty_cache()
    free, total = torch.cuda.mem_get_info(decoder.device)
    loaded = torch.cuda.memory_allocated(decoder.device)
    available = int(free + loaded - RESERVE * total)
    limits = Limits(available, memory=memory, fp8=fp8, deterministic=deterministic)
    plan = choose_plan(work, limits)
    if plan is None:
        raise does_not_fit(work, limits)
    return plan


class FusedLoss:
    """Losses whose backward pass hands out gradients that are there already.

    Both passes run when the loss is asked for; ``backward`` then adds the gradients, times the
    gradient of the loss, to the parameters'. Without gradients it is the forward pass alone, in the
    same buffers: evaluation needs no memory of its own.

    Args:
        decoder: With an adapter.
        num_tokens: No batch has more tokens.
        plan: Memory against time.
    """

    def __init__(self, decoder: Decoder, *, num_tokens: int, plan: StepPlan) -> None:
        self.decoder = decoder
        self.step = FusedStep(decoder, num_tokens=num_tokens, plan=plan)
        self.total = torch.zeros_like(self.step.adapters.grads)
        self.asked = 0
        self.anchor = torch.zeros((), device=decoder.device, requires_grad=True)
        offset, self.views = 0, []
        for parameter in self.step.adapters.parameters:
            view = self.total[offset : offset + parameter.numel()].view(parameter.shape)
            self.views.append(view)
            offset += parameter.numel()

    def __call__(self, batch: PackedBatch) -> torch.Tensor:
        """Sum of the losses at the batch's targets (fp32 scalar)."""
        if not torch.is_grad_enabled():
            if len(batch.token_ids_T) > self.step.num_tokens:
                return batch_loss(self.decoder, batch)
            self.step.refresh()
            return self.step.run_batch(batch, backward=False)
        self.asked += 1
        self.step.zero_gradients()
        self.step.refresh()
        hand_over = partial(self._hand_over, self.asked)
        loss: Any = _Handover.apply(self.anchor, self.step.run_batch(batch), hand_over)
        return loss

    def _hand_over(self, asked: int, grad: torch.Tensor) -> None:
        if asked != self.asked:
            raise RuntimeError(
                "the gradients are another batch's by now: call backward() on a loss before the "
                "next one is asked for"
            )
        parameters = self.step.adapters.parameters
        if parameters[0].grad is None:
            self.total.zero_()
            for parameter, view in zip(parameters, self.views, strict=True):
                parameter.grad = view
        self.total.addcmul_(self.step.adapters.grads, grad)


class _Handover(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        anchor: torch.Tensor,
        loss: torch.Tensor,
        hand_over: Callable[[torch.Tensor], None],
    ) -> torch.Tensor:
        ctx.hand_over = hand_over
        return anchor + loss

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[None, None, None]:
        ctx.hand_over(grads[0])
        return None, None, None

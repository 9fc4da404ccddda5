"""The fastest plan of a training step that fits into a card's memory, and its micro-batch.

Measured on an H100 with the 8B at 2 x 2048 tokens: each plan is slower and smaller than the one
before it, so the first that fits is taken. How many tokens a micro-batch has matters where its
costs are shared by them: weights that are dequantised each time, the end that no row fills.
"""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from medimind.errors import TrainingError
from medimind.models.fused.memory import host_need, memory_need
from medimind.models.fused.plan import StepPlan
from medimind.models.fused.workload import Workload

Memory = Literal["auto", "keep", "recompute_cheap", "recompute_layers", "offload"]
"""What a recipe may ask for; ``auto`` takes the fastest that fits."""

_MLP_CHUNK = 2048
PLANS: tuple[StepPlan, ...] = (
    StepPlan(keep="everything", resident=True),
    StepPlan(keep="cheap", resident=True),
    StepPlan(keep="everything", resident=False),
    StepPlan(keep="cheap", resident=False),
    StepPlan(keep="inputs", resident=False, head_chunk=1024),
    StepPlan(keep="inputs", resident=False, head_chunk=1024, mlp_chunk=_MLP_CHUNK),
    StepPlan(
        keep="inputs", resident=False, offload=True, offload_projections=True, head_chunk=1024
    ),
    StepPlan(keep="inputs", resident=False, offload=True, head_chunk=1024),
    StepPlan(
        keep="inputs",
        resident=False,
        offload=True,
        offload_projections=True,
        host_embedding=True,
        head_chunk=1024,
    ),
    StepPlan(keep="inputs", resident=False, offload=True, host_embedding=True, head_chunk=1024),
    StepPlan(
        keep="inputs",
        resident=False,
        offload=True,
        host_embedding=True,
        head_chunk=1024,
        mlp_chunk=_MLP_CHUNK,
    ),
)
GIB = 1 << 30
CONTEXT_BYTES = 600 << 20
"""What CUDA and its libraries hold outside of torch's allocations."""
RESERVE = 0.08
"""Share of the card that is left free: other processes, fragmentation."""
_TOKENS = 256
"""Numbers of tokens that are proposed are multiples of this."""
_GRAPH_TOKENS = 8192
"""From here on the launches of a step do not count, and no memory is kept for graphs."""
_PASS_TOKENS = 104
"""Dequantising all weights once takes as long as so many tokens (6 ms on an H100)."""
_AGAIN = {"everything": 1.0, "cheap": 1.02, "inputs": 1.4}
_ALL_BUT_MLP_TRAVELS = 1.31
"""Time of a token against that of one whose activations are kept (measured, 2 x 2048)."""
_NEARLY = 0.98
"""A larger micro-batch must be faster by more than this."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a plan must keep to.

    Attributes:
        available_bytes: For torch's allocations, the loaded model included.
        memory: What the recipe allows.
        fp8: Multiply in fp8.
        deterministic: Sum in a fixed order everywhere.
        host_bytes: Host memory that tensors may travel to.
    """

    available_bytes: int
    memory: Memory = "auto"
    fp8: bool = False
    deterministic: bool = True
    host_bytes: int = field(default_factory=lambda: host_memory() // 2)


def host_memory() -> int:
    """Bytes of this machine's memory; 0 where the system does not tell."""
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return 0


def available_on(card_bytes: int) -> int:
    """What torch may allocate on an otherwise empty card of this size."""
    return int(card_bytes * (1 - RESERVE)) - CONTEXT_BYTES


def plans_for(limits: Limits, *, tied_head: bool, num_tokens: int) -> list[StepPlan]:
    """The plans that a recipe allows for so many tokens, fastest first."""
    wanted = {
        "auto": ("everything", "cheap", "inputs"),
        "keep": ("everything",),
        "recompute_cheap": ("cheap",),
        "recompute_layers": ("inputs",),
        "offload": ("inputs",),
    }[limits.memory]
    long = num_tokens >= _GRAPH_TOKENS
    chosen = {"graph": not long, "deterministic": limits.deterministic}
    found = [replace(plan, **chosen) for plan in PLANS if plan.keep in wanted]
    if limits.memory in ("recompute_layers", "offload"):
        found = [plan for plan in found if plan.offload == (limits.memory == "offload")]
    if tied_head:
        found = [plan for plan in found if not plan.host_embedding]
    if not long and found[-1].keep == "inputs":  # what graphs hold is the last thing to be spared
        found += [replace(plan, graph=False) for plan in found[-2:]]
    if not limits.fp8:
        return found
    # The fp8 copies are made once, so dense or not is no choice there.
    return list(dict.fromkeys(replace(plan, fp8=True, resident=False) for plan in found))


def choose_plan(work: Workload, limits: Limits) -> StepPlan | None:
    """The fastest plan whose predicted peak fits; ``None`` when none does."""
    for plan in _plans(work, limits):
        if memory_need(work, plan).held <= limits.available_bytes:
            return plan
    return None


def _plans(work: Workload, limits: Limits) -> list[StepPlan]:
    tied_head = work.architecture.tied_head
    found = plans_for(limits, tied_head=tied_head, num_tokens=work.num_tokens)
    return [plan for plan in found if _host_has_room(work, plan, limits)]


def _host_has_room(work: Workload, plan: StepPlan, limits: Limits) -> bool:
    """Whether what travels finds room; of a host whose memory is not known, not for all of it."""
    if limits.host_bytes == 0:
        return not plan.offload_projections
    return host_need(work, plan) <= limits.host_bytes


def choose_tokens(work: Workload, limits: Limits, *, longest: int, batch_size: int) -> int:
    """The tokens of a micro-batch that make a step fast, at least as many as the longest row.

    The loss does not depend on it: gradients are summed over the whole step.

    Args:
        work: ``num_tokens`` is of no matter.
        limits: What a plan must keep to.
        longest: Tokens of the longest row.
        batch_size: Rows of a step.

    Returns:
        ``longest`` where nothing more fits.
    """
    best, best_speed, tokens = longest, 0.0, longest
    while tokens <= max(longest, min(batch_size * longest, _GRAPH_TOKENS)):
        plan = choose_plan(replace(work, num_tokens=tokens), limits)
        if plan is None:
            break
        speed = relative_speed(plan, num_tokens=tokens, longest=longest)
        if speed * _NEARLY > best_speed:
            best, best_speed = tokens, speed
        tokens *= 2
    return best


def relative_speed(plan: StepPlan, *, num_tokens: int, longest: int) -> float:
    """Tokens a second against a plan that keeps everything and wastes nothing.

    Args:
        plan: The plan.
        num_tokens: Tokens of a micro-batch.
        longest: Tokens of the longest row; on average an eighth of it is left empty at the end.
    """
    passes = 0 if plan.resident or plan.fp8 else 2
    lost = passes * _PASS_TOKENS + longest / 8
    again = _ALL_BUT_MLP_TRAVELS if plan.offload_projections else _AGAIN[plan.keep]
    return num_tokens / (num_tokens * again + lost)


def most_tokens(work: Workload, limits: Limits) -> int:
    """The most tokens of a micro-batch that fit by any plan; 0 when none do."""

    def fits(steps: int) -> bool:
        return choose_plan(replace(work, num_tokens=steps * _TOKENS), limits) is not None

    least, most = 0, 1
    while fits(most):
        least, most = most, 2 * most
    while most - least > 1:
        middle = (least + most) // 2
        least, most = (middle, most) if fits(middle) else (least, middle)
    return least * _TOKENS


def does_not_fit(work: Workload, limits: Limits) -> TrainingError:
    """The error that says what is missing, and what would fit."""
    tied_head = work.architecture.tied_head
    smallest = plans_for(limits, tied_head=tied_head, num_tokens=work.num_tokens)[-1]
    needed, host = memory_need(work, smallest).held, host_need(work, smallest)
    fixes = []
    if tokens := most_tokens(work, limits):
        fixes.append(f"train.micro_batch_tokens={tokens} fits (with train.max_length no longer)")
    others = {
        "train.memory=auto": replace(limits, memory="auto"),
        "train.precision=dtype": replace(limits, fp8=False),
    }
    fixes += [f"{name} fits" for name, other in others.items() if choose_plan(work, other)]
    smaller: dict[str, dict[str, Any]] = {
        "model.quantization=nf4": {"nf4": True},
        "model.head_quantization=int8": {"int8_tables": True},
        "train.optimizer=adamw_8bit": {"moment_bytes": 1},
    }
    fixes += [
        f"{name} fits"
        for name, change in smaller.items()
        if choose_plan(replace(work, **change), limits)
    ]
    if not fixes:
        fixes = _together(work, limits, smaller)
    gib = math.ceil((needed + CONTEXT_BYTES) / (1 - RESERVE) / GIB)
    what = f"{needed / GIB:.1f} GiB on the card, {limits.available_bytes / GIB:.1f} GiB can be used"
    if needed <= limits.available_bytes:  # so it is the host that has too little
        usable = limits.host_bytes / GIB
        what = f"{host / GIB:.1f} GiB of host memory, {usable:.1f} GiB can be used"
        fixes.append("a card or a host with more memory fits")
    else:
        fixes.append(f"a card of {gib} GiB or more fits")
    return TrainingError(
        f"a micro-batch of {work.num_tokens} tokens needs {what}",
        where="train.micro_batch_tokens",
        fix="; ".join(fixes),
    )


def _together(work: Workload, limits: Limits, smaller: dict[str, dict[str, Any]]) -> list[str]:
    """All that saves memory, at once, where none of it is enough alone."""
    changed = {name: change for name, change in smaller.items() if replace(work, **change) != work}
    for change in changed.values():
        work = replace(work, **change)
    names = list(changed)
    names += ["train.memory=auto"] if limits.memory != "auto" else []
    names += ["train.precision=dtype"] if limits.fp8 else []
    limits = replace(limits, memory="auto", fp8=False)
    if choose_plan(work, limits) is None:
        tokens = most_tokens(work, limits)
        if not tokens:
            return ["Take a smaller model"]
        names.append(f"train.micro_batch_tokens={tokens} (train.max_length no longer)")
    return [f"{' with '.join(names)} fits"]

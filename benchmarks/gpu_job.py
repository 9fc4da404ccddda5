"""The story's job on one card, a part of ``gpu_step.py``: real lengths of rows, 8 to a step."""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from medimind.models.decoder import Decoder
from medimind.models.fused import StepPlan
from medimind.models.fused.loss import FusedLoss
from medimind.models.lora import lora_parameters
from medimind.packing.batch import PackedBatch

JOB_TOKENS = 8192
"""Of a micro-batch: the eight rows of a step fit into one."""


def compare_job(
    decoder: Decoder,
    lengths: list[int],
    peers: list[Any],
    *,
    plans: dict[str, StepPlan],
    publish: Callable[[dict], None],
) -> None:
    """Steps of 8 rows of real lengths, random tokens: us packed, peers 2 x 4 and padded.

    Both sides count from the model in memory to the last update. Before that each trains the first
    step once, so that what these shapes need is compiled; how long that took is told beside it.
    The peers come after the first policy; what is known is published as it comes.

    Args:
        decoder: With an adapter.
        lengths: Tokens of the rows.
        peers: Workers of ``gpu_peers.py``.
        plans: Policies of ours.
        publish: Takes what is known so far.
    """
    steps = [lengths[i : i + 8] for i in range(0, len(lengths) - 7, 8)]
    row: dict = {"setting": f"job: {len(steps)} steps of 8 rows", "tokens": sum(map(sum, steps))}
    pairs = [[step[i : i + 2] for i in range(0, 8, 2)] for step in steps]
    names = [peer.framework for peer in peers]

    def ours(policy: str) -> None:
        first = _time_job(decoder, steps[:1], plans[policy])
        seconds = _time_job(decoder, steps, plans[policy])
        row[f"medimind_{policy}"] = {"seconds": seconds, "compiling_first_step_seconds": first}

    def tell() -> None:
        for name in names:
            theirs = row.get(name, {}).get("seconds")  # none where it failed
            found = {p: row.get(f"medimind_{p}", {}).get("seconds") for p in plans}
            if theirs:
                ratios = {p: round(theirs / own, 2) for p, own in found.items() if own}
                row[f"ratio_{name}"] = ratios
        publish(row)

    before, *after = plans
    ours(before)
    publish(row)
    for peer in peers:
        first = peer.ask_job(pairs[:1]).get("seconds")
        row[peer.framework] = peer.ask_job(pairs) | {"compiling_first_step_seconds": first}
        tell()
    for policy in after:
        ours(policy)
        tell()


def _time_job(decoder: Decoder, steps: list[list[int]], plan: StepPlan) -> float:
    """Seconds from the model in memory to the last update; all compiling and capturing counts."""
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.synchronize()
    start = time.perf_counter()
    plan = replace(plan, graph=False)  # as the planner has it for so many tokens
    loss_of = FusedLoss(decoder, num_tokens=JOB_TOKENS, plan=plan)
    parameters = list(lora_parameters(decoder).values())
    optimizer = torch.optim.AdamW(parameters, lr=2e-4, fused=True)
    for step in steps:
        _train_step(step, loss_of, optimizer)
    torch.cuda.synchronize()
    return round(time.perf_counter() - start, 3)


def _train_step(lengths: list[int], loss_of: FusedLoss, optimizer: torch.optim.Optimizer) -> None:
    bins: list[list[int]] = []
    for length in sorted(lengths, reverse=True):  # best-fit decreasing
        fits = [b for b in bins if sum(b) + length <= loss_of.step.num_tokens]
        max(fits, key=sum).append(length) if fits else bins.append([length])
    optimizer.zero_grad(set_to_none=True)
    for rows in bins:
        tokens = np.random.default_rng(0).integers(0, 128_000, sum(rows))
        batch = PackedBatch(
            token_ids_T=tokens,
            labels_T=np.roll(tokens, -1),
            position_ids_T=np.concatenate([np.arange(n) for n in rows]),
            cu_seqlens=np.concatenate([[0], np.cumsum(rows)]).astype(np.int32),
            max_seqlen=max(rows),
            num_targets=len(tokens),
            case_ids=(),
        )
        (loss_of(batch) / sum(lengths)).backward()
    optimizer.step()

"""Bytes that attention allocates in a step, beside the buffers that are there all along.

Which backend runs, and in what shape, depends on the card and on the rows of a micro-batch. Of all
that may come, what needs the most is counted.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product

from medimind.kernels.attention.footprint import Card, backends, backward_bytes, kept_bytes
from medimind.kernels.attention.forward import Backend
from medimind.models.fused.offload import NUM_SLOTS
from medimind.models.fused.plan import StepPlan
from medimind.models.fused.segments import padded_segments, padded_tokens
from medimind.models.fused.workload import Workload

_FEW = range(1, 9)
"""Numbers of rows that are looked at beside the most: the fewer, the more splits flash makes."""


@dataclass(frozen=True, slots=True)
class AttentionNeed:
    """Bytes of the backend that needs the most.

    Attributes:
        kept: What the forward pass leaves for the backward pass, in all layers that keep it.
        workspace: While one layer's gradients are made, with the outputs that are on their way to
            the host or needed next.
    """

    kept: int
    workspace: int


def attention_need(work: Workload, plan: StepPlan) -> AttentionNeed:
    """What attention allocates by the backends that the rows may take on the cards it may be."""
    heads, a = work.heads, work.architecture
    moving = NUM_SLOTS if plan.offload else (1 if plan.keep == "inputs" else 0)
    outputs = moving * work.item * a.num_heads * a.head_dim * work.num_tokens
    layers = 1 if plan.keep == "inputs" and not plan.offload else a.num_layers
    most = AttentionNeed(0, 0)
    for backend, card, shape in _runs(work, plan):
        found = AttentionNeed(
            kept=layers * kept_bytes(backend, heads, **shape),
            workspace=outputs + backward_bytes(backend, heads, card=card, **shape),
        )
        if found.kept + found.workspace > most.kept + most.workspace:
            most = found
    return most


def _runs(work: Workload, plan: StepPlan) -> Iterator[tuple[Backend, Card, dict[str, int]]]:
    """Backends, cards and shapes of attention that may come up."""
    length = min(work.longest or work.num_tokens, work.num_tokens)
    rows = max(work.rows, -(-work.num_tokens // length))
    padding = padded_tokens(1, num_tokens=work.num_tokens, graph=plan.graph)
    for card in work.cards:
        for equal in (True, False) if work.equal is None else (work.equal,):
            counts = sorted({few for few in _FEW if few <= rows} | {rows})
            most = length if equal else min(max(length, padding), work.num_tokens - 1)
            rule = {"equal": equal, "deterministic": plan.deterministic, "longest": most}
            for backend, count in product(backends(card, work.heads, **rule), counts):
                tokens = min(work.num_tokens, count * length)
                shape = {"num_tokens": tokens, "segments": count, "longest": tokens // count}
                if not equal:  # with padding, which is a segment too
                    tokens = min(work.num_tokens, count * length + padding)
                    segments, longest = padded_segments(
                        count + 1,
                        max(length, padding),
                        num_tokens=tokens,
                        backend=backend,
                        graph=plan.graph,
                    )
                    shape = {"num_tokens": tokens, "segments": segments, "longest": longest}
                yield backend, card, shape

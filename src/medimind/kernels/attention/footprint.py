"""Bytes that each attention backend allocates, counted without a card.

| backend   | kept until the backward pass | while gradients are made, beside those of q, k, v  |
|-----------|------------------------------|----------------------------------------------------|
| cudnn     | log-sum-exps ``(H, T)``      | that of q in fp32; those of k, v by query head     |
| tiled     | the same                     | row sums ``(H, T)``                                |
| flash     | the same                     | as cudnn, that of q once for each split; row sums  |
| flash4    | the same                     | those of q, k, v and row sums in fp32, segments    |
|           |                              | rounded up to tiles                                |
| efficient | the same, ``(N, H, S)``      | k, v and their gradients by query head; that of q  |
|           |                              | in fp32, ``(N, H, S, K)``                          |
| reference | nothing                      | scores of all segments                             |

``tiled`` is read off ``tiled.py``; ``flash``, ``efficient`` and ``flash4`` off their sources;
cuDNN's workspace is measured (docs/notes/gpu_memory.md). A fixed order of sums costs flash splits:
as many as it takes for ``splits * N * H`` to reach the card's multiprocessors.

``T`` tokens, ``N`` segments with the empty ones, ``S`` longest segment, ``H`` query heads, ``G``
key/value heads, ``K`` head width.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch

from medimind.kernels.attention.forward import Backend, backend_for
from medimind.kernels.availability import has_flash4

_FLASH_ROWS = 128
"""Rows that flash adds to each segment."""
_FLASH4_ROWS = (64, 128)
"""Rows of a tile of queries and of one of keys."""
_EFFICIENT_ROWS = 64
"""Queries of a block of torch's memory-efficient kernel; of its keys at most twice as many."""
_REFERENCE_SCORES = 5
"""Tensors of scores that autograd holds at once."""


@dataclass(frozen=True, slots=True)
class Card:
    """What of a card decides how its attention is run.

    Attributes:
        capability: CUDA compute capability.
        multiprocessors: How many it has.
    """

    capability: tuple[int, int]
    multiprocessors: int


@dataclass(frozen=True, slots=True)
class Heads:
    """Shape of an attention.

    Attributes:
        queries: H.
        keys: G.
        width: K.
        item: Bytes of a value.
    """

    queries: int
    keys: int
    width: int
    item: int

    @property
    def dtype(self) -> torch.dtype:
        """One of this size; backends are chosen alike for bf16 and fp16."""
        return {2: torch.float16, 8: torch.float64}.get(self.item, torch.float32)


def card_of(device: torch.device) -> Card:
    """The card behind a CUDA device."""
    known = torch.cuda.get_device_properties(device)
    return Card((known.major, known.minor), known.multi_processor_count)


def backends(
    card: Card,
    heads: Heads,
    *,
    equal: bool | None,
    deterministic: bool = False,
    longest: float = math.inf,
) -> Iterator[Backend]:
    """What training may take on this card, by the rule that chooses it there.

    Args:
        card: Need not be in this machine; Triton is taken to be there, FlashAttention-4 is where
            it is installed.
        heads: The attention.
        equal: Whether all segments have one length; ``None`` when either may come.
        deterministic: Whether gradients are summed in a fixed order.
        longest: No segment has more tokens.
    """
    found = {}
    for alike in (True, False) if equal is None else (equal,):
        for length in (0.0, longest):
            backend = backend_for(
                card.capability,
                heads.dtype,
                head_dim=heads.width,
                equal=alike,
                deterministic=deterministic,
                mean_length=length,
                triton=True,
                flash4=has_flash4(),
            )
            found[backend, alike] = backend
    yield from found.values()


def kept_bytes(
    backend: Backend, heads: Heads, *, num_tokens: int, segments: int, longest: int
) -> int:
    """What the forward pass leaves for the backward pass, beside q, k, v and the output.

    Args:
        backend: The backend.
        heads: The attention.
        num_tokens: T.
        segments: N.
        longest: S.
    """
    if backend == "reference":
        return 0
    if backend == "efficient":
        return 4 * heads.queries * segments * _round_up(longest, 32)
    return 4 * heads.queries * num_tokens


def backward_bytes(
    backend: Backend, heads: Heads, *, num_tokens: int, segments: int, longest: int, card: Card
) -> int:
    """The gradients of q, k and v, and what is there beside them while they are made.

    Args:
        backend: The backend.
        heads: The attention.
        num_tokens: T.
        segments: N.
        longest: S.
        card: The card.
    """
    h, g, k, item = heads.queries, heads.keys, heads.width, heads.item
    gradients = item * num_tokens * (h + 2 * g) * k
    for_each_head = 2 * item * num_tokens * h * k  # k and v, or their gradients
    if backend == "tiled":
        return gradients + 4 * h * num_tokens
    if backend in ("flash4", "flash4_loose"):
        # Room for a tile that each segment, and one more, leaves unfilled.
        rows, columns = ((num_tokens + (segments + 1) * n - 1) // n * n for n in _FLASH4_ROWS)
        accumulated = 4 * (h * rows * (k + 2) + (2 * g * columns * k if h != g else 0))
        turns = [segments * -(-longest // n) for n in _FLASH4_ROWS]  # whose turn it is to add
        return gradients + accumulated + 4 * (h * turns[0] + (4 * g * turns[1] if h != g else 0))
    if backend == "cudnn":
        return gradients + for_each_head + 4 * h * num_tokens * k
    if backend == "flash":
        splits = -(-card.multiprocessors // (segments * h))
        rows = num_tokens + _FLASH_ROWS * segments
        width = _round_up(k, 32 if k <= 128 else 64)
        accumulated = 4 * h * rows * (splits * width + 1)
        return gradients + accumulated + (for_each_head if h != g else 0)
    if backend == "efficient":
        width = _round_up(k, _EFFICIENT_ROWS)
        rows = _round_up(longest, _EFFICIENT_ROWS) + 2 * 2 * _EFFICIENT_ROWS  # and k, v of a block
        workspace = 4 * h * segments * rows * width + 4 * h * num_tokens
        workspace += 4 * h * num_tokens * k if item == 4 else 0  # row sums made outside
        expanded = for_each_head if h != g else 0
        summed = 2 * item * num_tokens * g * k
        whole = item * num_tokens * h * k + for_each_head
        return whole + max(workspace + expanded, summed)
    scores = _REFERENCE_SCORES * item * h * num_tokens * longest
    return gradients + scores


def _round_up(number: int, to: int) -> int:
    return -(-number // to) * to

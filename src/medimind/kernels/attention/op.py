"""Variable-length attention: public function and the plain torch path.

```
            keys   a a a b b
queries a          x
        a          x x
        a          x x x
        b                x
        b                x x
```

Shapes: ``T`` tokens, ``H`` query heads, ``G`` key/value heads (each serves ``H / G`` query heads),
``K`` width of a head.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from functools import lru_cache

import torch

from medimind.kernels.attention.forward import Segments, attention_forward, choose_backend


def segment_bounds(cu_seqlens: Sequence[int] | torch.Tensor) -> list[tuple[int, int]]:
    """``(start, end)`` of every segment that is not empty."""
    offsets = [int(offset) for offset in cu_seqlens]
    return [(a, b) for a, b in itertools.pairwise(offsets) if b > a]


def varlen_attention(
    q_THK: torch.Tensor,
    k_TGK: torch.Tensor,
    v_TGK: torch.Tensor,
    *,
    cu_seqlens: Sequence[int] | torch.Tensor,
    max_seqlen: int,
) -> torch.Tensor:
    """``softmax(q k^T / sqrt(K)) v``, causal and within each segment.

    Args:
        q_THK: Queries.
        k_TGK: Keys.
        v_TGK: Values.
        cu_seqlens: ``N + 1`` offsets from 0 to ``T``.
        max_seqlen: Longest segment.

    Returns:
        ``(T, H, K)`` in the dtype of the queries.
    """
    if q_THK.is_cuda and not torch.is_grad_enabled():
        return _without_gradient(q_THK, k_TGK, v_TGK, cu_seqlens, max_seqlen)
    outputs = []
    for start, end in segment_bounds(cu_seqlens):
        q, k, v = (x[start:end].transpose(0, 1).unsqueeze(0) for x in (q_THK, k_TGK, v_TGK))
        out = torch.nn.functional.scaled_dot_product_attention(
            q, k, v, is_causal=True, enable_gqa=q_THK.shape[1] != k_TGK.shape[1]
        )
        outputs.append(out.squeeze(0).transpose(0, 1))
    return torch.cat(outputs) if outputs else torch.empty_like(q_THK)


@lru_cache(maxsize=4)
def _segments(offsets: tuple[int, ...], max_seqlen: int, device: torch.device) -> Segments:
    """Kept for the next layer: a copy to the card makes the host wait for all that goes before."""
    bounds = segment_bounds(offsets)
    equal = len(bounds) if len({end - start for start, end in bounds}) == 1 else None
    cu_seqlens = torch.tensor(offsets, dtype=torch.int32, device=device)
    return Segments(cu_seqlens, max_seqlen, equal, offsets)


def _without_gradient(
    q_THK: torch.Tensor,
    k_TGK: torch.Tensor,
    v_TGK: torch.Tensor,
    cu_seqlens: Sequence[int] | torch.Tensor,
    max_seqlen: int,
) -> torch.Tensor:
    """All segments in one launch, by the card's fastest backend."""
    if isinstance(cu_seqlens, torch.Tensor):
        cu_seqlens = cu_seqlens.tolist()
    segments = _segments(tuple(cu_seqlens), max_seqlen, q_THK.device)
    backend = choose_backend(
        q_THK.device,
        q_THK.dtype,
        head_dim=q_THK.shape[2],
        equal=segments.equal is not None,
        training=False,
    )
    return attention_forward(q_THK, k_TGK, v_TGK, segments, backend=backend)[0]

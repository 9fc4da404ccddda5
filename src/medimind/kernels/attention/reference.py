"""Causal attention within segments in plain torch, and its gradient by autograd.

``T`` tokens, ``H`` query heads, ``G`` key/value heads, ``K`` head width.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch


def attention_reference(
    q_THK: torch.Tensor,
    k_TGK: torch.Tensor,
    v_TGK: torch.Tensor,
    *,
    offsets: Sequence[int],
) -> torch.Tensor:
    """``softmax(q k^T / sqrt(K)) v``, each query over the keys of its segment up to itself."""
    group = q_THK.shape[1] // k_TGK.shape[1]
    out = []
    for start, end in pairwise(offsets):
        q_HSK = q_THK[start:end].transpose(0, 1)
        k_HSK, v_HSK = (
            x[start:end].transpose(0, 1).repeat_interleave(group, dim=0) for x in (k_TGK, v_TGK)
        )
        scores = q_HSK @ k_HSK.transpose(1, 2) * q_HSK.shape[-1] ** -0.5
        future = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).triu(1)
        weights = scores.masked_fill(future, -torch.inf).softmax(dim=-1)
        out.append((weights @ v_HSK).transpose(0, 1))
    return torch.cat(out)


def attention_backward_reference(
    grad_THK: torch.Tensor,
    q_THK: torch.Tensor,
    k_TGK: torch.Tensor,
    v_TGK: torch.Tensor,
    *,
    offsets: Sequence[int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v."""
    with torch.enable_grad():
        leaves = [x.detach().requires_grad_() for x in (q_THK, k_TGK, v_TGK)]
        out = attention_reference(*leaves, offsets=offsets)
        q, k, v = torch.autograd.grad(out, leaves, grad_THK)
    return q, k, v

"""Gradients of causal attention within segments, by the backend of the forward pass."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.utils.deterministic

from medimind.kernels.attention.forward import Backend, Segments, batched, expand_heads
from medimind.kernels.attention.reference import attention_backward_reference


def attention_backward(
    grad_THK: torch.Tensor,
    q_THK: torch.Tensor,
    k_TGK: torch.Tensor,
    v_TGK: torch.Tensor,
    out_THK: torch.Tensor,
    saved: tuple[Any, ...],
    segments: Segments,
    *,
    backend: Backend,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v, in their shapes.

    All sum in a fixed order but cuDNN and flash4_loose.
    """
    if backend == "cudnn":
        return _cudnn_backward(grad_THK, q_THK, k_TGK, v_TGK, out_THK, saved, segments)
    if backend == "reference":
        return attention_backward_reference(grad_THK, q_THK, k_TGK, v_TGK, offsets=segments.offsets)
    if backend in ("flash4", "flash4_loose"):
        from medimind.kernels.attention.flash4 import flash4_backward

        return flash4_backward(
            grad_THK,
            q_THK,
            k_TGK,
            v_TGK,
            out_THK,
            saved[0],
            segments,
            deterministic=backend == "flash4",
        )
    if backend == "tiled":
        from medimind.kernels.attention.tiled import tiled_backward

        inputs = (grad_THK, q_THK, k_TGK, v_TGK, out_THK, *saved)
        longest = segments.max_seqlen
        return tiled_backward(*inputs, cu_seqlens=segments.cu_seqlens, longest=longest)
    function = _flash_backward if backend == "flash" else _efficient_backward
    with _in_fixed_order():
        return function(grad_THK, q_THK, k_TGK, v_TGK, out_THK, saved, segments)


@contextmanager
def _in_fixed_order() -> Iterator[None]:
    """Within it torch's attention adds its partial gradients up in the same order each time."""
    settings: Any = torch.utils.deterministic
    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
        settings.fill_uninitialized_memory,
    )
    settings.fill_uninitialized_memory = False
    torch.use_deterministic_algorithms(True)
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(before[0], warn_only=before[1])
        settings.fill_uninitialized_memory = before[2]


def _flash_backward(
    grad_THK: torch.Tensor,
    q_THK: torch.Tensor,
    k_TGK: torch.Tensor,
    v_TGK: torch.Tensor,
    out_THK: torch.Tensor,
    saved: tuple[Any, ...],
    segments: Segments,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    lse, rng, unused = saved
    longest = segments.max_seqlen
    return torch.ops.aten._flash_attention_backward(
        grad_THK,
        q_THK,
        k_TGK,
        v_TGK,
        out_THK,
        lse,
        segments.cu_seqlens,
        segments.cu_seqlens,
        longest,
        longest,
        0.0,
        True,
        rng,
        unused,
    )


def _efficient_backward(
    grad_THK: torch.Tensor,
    q_THK: torch.Tensor,
    k_TGK: torch.Tensor,
    v_TGK: torch.Tensor,
    out_THK: torch.Tensor,
    saved: tuple[Any, ...],
    segments: Segments,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    lse, seed, offset, longest_q, longest_k = saved
    num_heads = q_THK.shape[1]
    grad_q, grad_k, grad_v, _ = torch.ops.aten._efficient_attention_backward(
        grad_THK[None],
        q_THK[None],
        expand_heads(k_TGK, num_heads)[None],
        expand_heads(v_TGK, num_heads)[None],
        None,
        out_THK[None],
        segments.cu_seqlens,
        segments.cu_seqlens,
        longest_q,
        longest_k,
        lse,
        0.0,
        seed,
        offset,
        1,
        False,
    )
    return grad_q[0], _sum_group(grad_k[0], k_TGK), _sum_group(grad_v[0], v_TGK)


def _sum_group(grad_THK: torch.Tensor, like_TGK: torch.Tensor) -> torch.Tensor:
    num_tokens, num_kv_heads, width = like_TGK.shape
    return grad_THK.view(num_tokens, num_kv_heads, -1, width).sum(dim=2)


def _cudnn_backward(
    grad_THK: torch.Tensor,
    q_THK: torch.Tensor,
    k_TGK: torch.Tensor,
    v_TGK: torch.Tensor,
    out_THK: torch.Tensor,
    saved: tuple[Any, ...],
    segments: Segments,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    assert segments.equal is not None
    lse, cum_q, cum_k, longest_q, longest_k, seed, offset = saved
    views = [batched(x, segments.equal) for x in (grad_THK, q_THK, k_TGK, v_TGK, out_THK)]
    grads = torch.ops.aten._scaled_dot_product_cudnn_attention_backward(
        *views, lse, seed, offset, None, cum_q, cum_k, longest_q, longest_k, 0.0, True
    )
    q, k, v = (
        grad.transpose(1, 2).reshape(x.shape)
        for grad, x in zip(grads, (q_THK, k_TGK, v_TGK), strict=True)
    )
    return q, k, v

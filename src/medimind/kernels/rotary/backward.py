"""The gradient of turning is turning back."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from medimind.kernels.rotary.forward import rotate


def rotate_backward(
    grad_THK: torch.Tensor,
    cos_TK: torch.Tensor,
    sin_TK: torch.Tensor,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Gradient of what was turned; ``out`` may be ``grad_THK`` itself."""
    return rotate(grad_THK, cos_TK, sin_TK, inverse=True, out=out)


@triton.jit
def _place(
    source_ptr,
    source_stride_t,
    source_stride_h,
    target_ptr,
    cos,
    sin,
    token,
    first,
    num_heads,
    half,
    TURN: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
) -> None:
    """Some heads of a token, turned back or as they are, to where its heads of this kind begin."""
    head = first + tl.arange(0, HEADS)
    column = tl.arange(0, HALF)
    inside = (head < num_heads)[:, None] & (column < half)[None, :]
    source = source_ptr + token * source_stride_t + head[:, None] * source_stride_h
    source += column[None, :]
    left = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    right = tl.load(source + half, mask=inside, other=0.0).to(tl.float32)
    if TURN:
        left, right = left * cos + right * sin, right * cos - left * sin
    target = target_ptr + head[:, None] * (2 * half) + column[None, :]
    kind = target_ptr.dtype.element_ty
    tl.store(target, left.to(kind), mask=inside)
    tl.store(target + half, right.to(kind), mask=inside)


@triton.jit
def _rotate_back_kernel(
    q_ptr,
    k_ptr,
    v_ptr,
    out_ptr,
    cos_ptr,
    sin_ptr,
    q_stride_t,
    q_stride_h,
    k_stride_t,
    k_stride_h,
    v_stride_t,
    v_stride_h,
    out_stride,
    angle_stride,
    num_heads,
    num_kv_heads,
    half,
    HEADS: tl.constexpr,
    KV_HEADS: tl.constexpr,
    HALF: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    column = tl.arange(0, HALF)
    cos = tl.load(cos_ptr + token * angle_stride + column, mask=column < half, other=0.0)
    sin = tl.load(sin_ptr + token * angle_stride + column, mask=column < half, other=0.0)
    cos = cos.to(tl.float32)[None, :]
    sin = sin.to(tl.float32)[None, :]
    out_ptr += token * out_stride
    q_blocks = tl.cdiv(num_heads, HEADS)
    kv_blocks = tl.cdiv(num_kv_heads, KV_HEADS)
    k_out_ptr = out_ptr + num_heads * 2 * half
    v_out_ptr = k_out_ptr + num_kv_heads * 2 * half
    if block < q_blocks:
        _place(
            q_ptr,
            q_stride_t,
            q_stride_h,
            out_ptr,
            cos,
            sin,
            token,
            block * HEADS,
            num_heads,
            half,
            True,
            HEADS,
            HALF,
        )
    elif block < q_blocks + kv_blocks:
        _place(
            k_ptr,
            k_stride_t,
            k_stride_h,
            k_out_ptr,
            cos,
            sin,
            token,
            (block - q_blocks) * KV_HEADS,
            num_kv_heads,
            half,
            True,
            KV_HEADS,
            HALF,
        )
    else:
        _place(
            v_ptr,
            v_stride_t,
            v_stride_h,
            v_out_ptr,
            cos,
            sin,
            token,
            (block - q_blocks - kv_blocks) * KV_HEADS,
            num_kv_heads,
            half,
            False,
            KV_HEADS,
            HALF,
        )


def rotate_back(
    grad_q_THK: torch.Tensor,
    grad_k_TGK: torch.Tensor,
    grad_v_TGK: torch.Tensor,
    cos_TK: torch.Tensor,
    sin_TK: torch.Tensor,
    *,
    out_TQ: torch.Tensor,
) -> None:
    """As ``reference.rotate_back``, in one launch."""
    num_tokens, num_heads, width = grad_q_THK.shape
    num_kv_heads, half = grad_k_TGK.shape[1], width // 2
    heads = min(16, triton.next_power_of_2(num_heads))
    kv_heads = min(16, triton.next_power_of_2(num_kv_heads))
    blocks = triton.cdiv(num_heads, heads) + 2 * triton.cdiv(num_kv_heads, kv_heads)
    _rotate_back_kernel[(num_tokens, blocks)](
        grad_q_THK,
        grad_k_TGK,
        grad_v_TGK,
        out_TQ,
        cos_TK,
        sin_TK,
        grad_q_THK.stride(0),
        grad_q_THK.stride(1),
        grad_k_TGK.stride(0),
        grad_k_TGK.stride(1),
        grad_v_TGK.stride(0),
        grad_v_TGK.stride(1),
        out_TQ.stride(0),
        cos_TK.stride(0),
        num_heads,
        num_kv_heads,
        half,
        HEADS=heads,
        KV_HEADS=kv_heads,
        HALF=triton.next_power_of_2(half),
        num_warps=4,  # pyright: ignore[reportCallIssue]
    )

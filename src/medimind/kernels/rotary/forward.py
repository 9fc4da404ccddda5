"""Rotary position embedding in Triton, in place or from one buffer to another.

One program turns a stretch of heads of one token; q and k side by side take one launch.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _rotate_kernel(
    x_ptr,
    out_ptr,
    cos_ptr,
    sin_ptr,
    x_stride_t,
    x_stride_h,
    out_stride_t,
    out_stride_h,
    angle_stride,
    num_heads,
    half,
    INVERSE: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1) * HEADS + tl.arange(0, HEADS)
    column = tl.arange(0, HALF)
    inside = (head < num_heads)[:, None] & (column < half)[None, :]
    cos = tl.load(cos_ptr + token * angle_stride + column, mask=column < half, other=0.0)
    sin = tl.load(sin_ptr + token * angle_stride + column, mask=column < half, other=0.0)
    cos = cos.to(tl.float32)[None, :]
    sin = sin.to(tl.float32)[None, :]
    if INVERSE:
        sin = -sin
    source = x_ptr + token * x_stride_t + head[:, None] * x_stride_h + column[None, :]
    first = tl.load(source, mask=inside, other=0.0).to(tl.float32)
    second = tl.load(source + half, mask=inside, other=0.0).to(tl.float32)
    target = out_ptr + token * out_stride_t + head[:, None] * out_stride_h + column[None, :]
    kind = out_ptr.dtype.element_ty
    tl.store(target, (first * cos - second * sin).to(kind), mask=inside)
    tl.store(target + half, (second * cos + first * sin).to(kind), mask=inside)


def rotate(
    x_THK: torch.Tensor,
    cos_TK: torch.Tensor,
    sin_TK: torch.Tensor,
    *,
    inverse: bool = False,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """As ``reference.rotate``."""
    num_tokens, num_heads, width = x_THK.shape
    if out is None:
        out = torch.empty(x_THK.shape, dtype=x_THK.dtype, device=x_THK.device)
    half = width // 2
    heads = min(16, triton.next_power_of_2(num_heads))
    _rotate_kernel[(num_tokens, triton.cdiv(num_heads, heads))](
        x_THK,
        out,
        cos_TK,
        sin_TK,
        x_THK.stride(0),
        x_THK.stride(1),
        out.stride(0),
        out.stride(1),
        cos_TK.stride(0),
        num_heads,
        half,
        INVERSE=inverse,
        HEADS=heads,
        HALF=triton.next_power_of_2(half),
        num_warps=4,  # pyright: ignore[reportCallIssue]
    )
    return out

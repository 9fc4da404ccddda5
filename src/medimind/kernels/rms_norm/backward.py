"""Gradient of RMSNorm with the residual path's gradient added, one Triton program per token."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from medimind.kernels.fp8.reference import FP8_MAX, SMALLEST


@triton.jit
def _backward_kernel(
    grad_normed_ptr,
    sum_ptr,
    weight_ptr,
    rstd_ptr,
    grad_sum_ptr,
    out_ptr,
    codes_ptr,
    scale_ptr,
    grad_normed_stride,
    sum_stride,
    grad_sum_stride,
    out_stride,
    num_columns,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
    CODES: tl.constexpr,
    FP8_MAX: tl.constexpr,
    SMALLEST: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < num_columns
    grad_normed = tl.load(
        grad_normed_ptr + row * grad_normed_stride + column, mask=inside, other=0.0
    ).to(tl.float32)
    x = tl.load(sum_ptr + row * sum_stride + column, mask=inside, other=0.0).to(tl.float32)
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    rstd = tl.load(rstd_ptr + row)
    normed = x * rstd
    g = grad_normed * weight
    grad = rstd * (g - normed * (tl.sum(g * normed, axis=0) / num_columns))
    if ADD:
        grad += tl.load(grad_sum_ptr + row * grad_sum_stride + column, mask=inside, other=0.0).to(
            tl.float32
        )
    rounded = grad.to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * out_stride + column, rounded, mask=inside)
    if CODES:
        wide = tl.where(inside, rounded.to(tl.float32), 0.0)
        scale = tl.maximum(tl.max(tl.abs(wide), axis=0), SMALLEST) / FP8_MAX
        tl.store(scale_ptr + row, scale)
        value = (wide / scale).to(codes_ptr.dtype.element_ty)
        tl.store(codes_ptr + row * num_columns + column, value, mask=inside)


def rms_norm_backward(
    grad_normed_TD: torch.Tensor,
    sum_TD: torch.Tensor,
    weight_D: torch.Tensor,
    rstd_T: torch.Tensor,
    *,
    grad_sum_TD: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    codes: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """As ``reference.rms_norm_backward``."""
    num_rows, num_columns = sum_TD.shape
    if out is None:
        out = torch.empty(sum_TD.shape, dtype=sum_TD.dtype, device=sum_TD.device)
    block = triton.next_power_of_2(num_columns)
    _backward_kernel[(num_rows,)](
        grad_normed_TD,
        sum_TD,
        weight_D,
        rstd_T,
        sum_TD if grad_sum_TD is None else grad_sum_TD,
        out,
        *(codes or (out, out)),
        grad_normed_TD.stride(0),
        sum_TD.stride(0),
        0 if grad_sum_TD is None else grad_sum_TD.stride(0),
        out.stride(0),
        num_columns,
        BLOCK=block,
        ADD=grad_sum_TD is not None,
        CODES=codes is not None,
        FP8_MAX=FP8_MAX,  # pyright: ignore[reportArgumentType]
        SMALLEST=SMALLEST,  # pyright: ignore[reportArgumentType]
        num_warps=8 if block >= 4096 else 4,  # pyright: ignore[reportCallIssue]
    )
    return out

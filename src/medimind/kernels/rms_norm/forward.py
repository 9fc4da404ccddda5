"""RMSNorm with the residual add before it, one Triton program per token.

Moves (read, written) per value: 1, 1 without a residual; 2, 2 with it.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _forward_kernel(
    x_ptr,
    residual_ptr,
    weight_ptr,
    normed_ptr,
    sum_ptr,
    rstd_ptr,
    x_stride,
    residual_stride,
    normed_stride,
    sum_stride,
    num_columns,
    eps,
    BLOCK: tl.constexpr,
    ADD: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < num_columns
    x = tl.load(x_ptr + row * x_stride + column, mask=inside, other=0.0)
    if ADD:
        residual = tl.load(residual_ptr + row * residual_stride + column, mask=inside, other=0.0)
        x = (x.to(tl.float32) + residual.to(tl.float32)).to(x.dtype)
        tl.store(sum_ptr + row * sum_stride + column, x, mask=inside)
    wide = x.to(tl.float32)
    rstd = 1.0 / tl.sqrt(tl.sum(wide * wide, axis=0) / num_columns + eps)
    tl.store(rstd_ptr + row, rstd)
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    # Rounded before the gain, as the checkpoints' own code does.
    normed = (wide * rstd).to(x.dtype).to(tl.float32) * weight
    tl.store(normed_ptr + row * normed_stride + column, normed.to(x.dtype), mask=inside)


def rms_norm_forward(
    x_TD: torch.Tensor,
    weight_D: torch.Tensor,
    *,
    eps: float,
    residual_TD: torch.Tensor | None = None,
    normed_out: torch.Tensor | None = None,
    sum_out: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """As ``reference.rms_norm_forward``."""
    num_rows, num_columns = x_TD.shape
    normed_TD = torch.empty_like(x_TD) if normed_out is None else normed_out
    if residual_TD is None:
        sum_TD = x_TD
    else:
        sum_TD = torch.empty_like(x_TD) if sum_out is None else sum_out
    rstd_T = torch.empty(num_rows, dtype=torch.float32, device=x_TD.device)
    block = triton.next_power_of_2(num_columns)
    _forward_kernel[(num_rows,)](
        x_TD,
        x_TD if residual_TD is None else residual_TD,
        weight_D,
        normed_TD,
        sum_TD,
        rstd_T,
        x_TD.stride(0),
        0 if residual_TD is None else residual_TD.stride(0),
        normed_TD.stride(0),
        sum_TD.stride(0),
        num_columns,
        eps,
        BLOCK=block,
        ADD=residual_TD is not None,
        num_warps=8 if block >= 4096 else 4,  # pyright: ignore[reportCallIssue]
    )
    return normed_TD, sum_TD, rstd_T

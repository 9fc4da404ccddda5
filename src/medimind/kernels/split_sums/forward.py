"""The norm after a product in stretches, in Triton: one program per row.

Bytes moved per value: 4 for each stretch, 4 read and written of the stream, 2 written.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait


@triton.jit
def _sum_norm_kernel(
    parts_ptr,
    residual_ptr,
    weight_ptr,
    normed_ptr,
    num_rows,
    residual_stride,
    normed_stride,
    num_columns,
    eps,
    NUM_SPLITS: tl.constexpr,
    BLOCK: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < num_columns
    weight = tl.load(weight_ptr + column, mask=inside, other=0.0).to(tl.float32)
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    place = residual_ptr + row * residual_stride + column
    residual = tl.load(place, mask=inside, other=0.0)
    total = tl.zeros((BLOCK,), dtype=tl.float32)
    for split in tl.static_range(NUM_SPLITS):
        part = parts_ptr + (split * num_rows + row) * num_columns + column
        total += tl.load(part, mask=inside, other=0.0)
    kind = residual.dtype
    x = (total.to(kind).to(tl.float32) + residual.to(tl.float32)).to(kind)
    tl.store(place, x, mask=inside)
    wide = x.to(tl.float32)
    rstd = 1.0 / tl.sqrt(tl.sum(wide * wide, axis=0) / num_columns + eps)
    # Rounded before the gain, as the checkpoints' own code does.
    normed = (wide * rstd).to(kind).to(tl.float32) * weight
    tl.store(normed_ptr + row * normed_stride + column, normed.to(kind), mask=inside)


def sum_norm(
    parts_SBD: torch.Tensor,
    weight_D: torch.Tensor,
    *,
    eps: float,
    residual_BD: torch.Tensor,
    normed_out: torch.Tensor,
    pdl: bool = False,
) -> None:
    """As ``reference.sum_norm``."""
    splits, rows, width = parts_SBD.shape
    block = triton.next_power_of_2(width)
    _sum_norm_kernel[(rows,)](
        parts_SBD,
        residual_BD,
        weight_D,
        normed_out,
        rows,
        residual_BD.stride(0),
        normed_out.stride(0),
        width,
        eps,
        NUM_SPLITS=splits,
        BLOCK=block,
        PDL=pdl,
        num_warps=min(16, max(4, block // 256)),  # pyright: ignore[reportCallIssue]
        launch_pdl=pdl,  # pyright: ignore[reportCallIssue]
    )

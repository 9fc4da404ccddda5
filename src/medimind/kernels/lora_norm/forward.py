"""The norm with the update of the adapter before it, in Triton.

One program takes ``ROWS`` tokens and passes over their columns twice: first the sum, of which the
mean square is needed before anything can be scaled, then the normed rows, for which the sum comes
back from the caches; a third time where e4m3 codes are wanted, which need the rows' largest value.
The update is a product of ``ROWS x RANK`` by ``RANK x COLUMNS`` on the way.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from medimind.kernels.fp8.reference import FP8_MAX, SMALLEST

ROWS = 16
"""The least rows of a matrix instruction."""
COLUMNS = 256
WIDEST_RANK = 64
"""Wider updates are added by a product of their own."""


@triton.jit
def _forward_kernel(
    product_ptr,
    residual_ptr,
    t_ptr,
    b_ptr,
    bias_ptr,
    weight_ptr,
    normed_ptr,
    sum_ptr,
    t_out_ptr,
    rstd_ptr,
    codes_ptr,
    scale_ptr,
    product_stride,
    residual_stride,
    t_stride,
    b_stride,
    normed_stride,
    sum_stride,
    t_out_stride,
    num_rows,
    eps,
    scaling,
    NUM_COLUMNS: tl.constexpr,
    RANK: tl.constexpr,
    RANK_BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STAGES: tl.constexpr,
    UPDATE: tl.constexpr,
    BIAS: tl.constexpr,
    KEEP_T: tl.constexpr,
    CODES: tl.constexpr,
    FP8_MAX: tl.constexpr,
    SMALLEST: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    row_ok = (row < num_rows)[:, None]
    kind = product_ptr.dtype.element_ty
    rank = tl.arange(0, RANK_BLOCK)
    if UPDATE:
        thin = row_ok & (rank < RANK)[None, :]
        t = tl.load(t_ptr + row[:, None] * t_stride + rank[None, :], mask=thin, other=0.0)
        if KEEP_T:
            tl.store(t_out_ptr + row[:, None] * t_out_stride + rank[None, :], t, mask=thin)
    squares = tl.zeros((ROWS,), dtype=tl.float32)
    for start in tl.range(0, NUM_COLUMNS, COLUMNS, num_stages=STAGES):
        column = start + tl.arange(0, COLUMNS)
        column_ok = column < NUM_COLUMNS
        inside = row_ok & column_ok[None, :]
        x = tl.load(
            product_ptr + row[:, None] * product_stride + column[None, :], mask=inside, other=0.0
        ).to(tl.float32)
        residual = tl.load(
            residual_ptr + row[:, None] * residual_stride + column[None, :], mask=inside, other=0.0
        ).to(tl.float32)
        if BIAS:
            bias = tl.load(bias_ptr + column, mask=column_ok, other=0.0).to(tl.float32)
            x += bias[None, :]
        if UPDATE:
            b = tl.load(
                b_ptr + column[None, :] * b_stride + rank[:, None],
                mask=(rank < RANK)[:, None] & column_ok[None, :],
                other=0.0,
            )
            x += scaling * tl.dot(t, b, input_precision="ieee")
        # Rounded before the residual is added, or tiny updates break ties (see the reference).
        rounded = (x.to(kind).to(tl.float32) + residual).to(kind)
        tl.store(sum_ptr + row[:, None] * sum_stride + column[None, :], rounded, mask=inside)
        wide = rounded.to(tl.float32)
        squares += tl.sum(wide * wide, axis=1)
    rstd = 1.0 / tl.sqrt(squares / NUM_COLUMNS + eps)
    tl.store(rstd_ptr + row, rstd, mask=row < num_rows)
    largest = tl.zeros((ROWS,), dtype=tl.float32)
    tl.debug_barrier()  # other threads of the program wrote what is read now
    for start in tl.range(0, NUM_COLUMNS, COLUMNS, num_stages=STAGES):
        column = start + tl.arange(0, COLUMNS)
        column_ok = column < NUM_COLUMNS
        inside = row_ok & column_ok[None, :]
        x = tl.load(
            sum_ptr + row[:, None] * sum_stride + column[None, :], mask=inside, other=0.0
        ).to(tl.float32)
        weight = tl.load(weight_ptr + column, mask=column_ok, other=0.0).to(tl.float32)
        # Rounded before the gain, as the checkpoints' own code does.
        normed = ((x * rstd[:, None]).to(kind).to(tl.float32) * weight[None, :]).to(kind)
        tl.store(normed_ptr + row[:, None] * normed_stride + column[None, :], normed, mask=inside)
        if CODES:
            largest = tl.maximum(largest, tl.max(tl.abs(normed.to(tl.float32)), axis=1))
    if CODES:
        scale = tl.maximum(largest, SMALLEST) / FP8_MAX
        tl.store(scale_ptr + row, scale, mask=row < num_rows)
        tl.debug_barrier()
        for start in tl.range(0, NUM_COLUMNS, COLUMNS, num_stages=STAGES):
            column = start + tl.arange(0, COLUMNS)
            inside = row_ok & (column < NUM_COLUMNS)[None, :]
            place = normed_ptr + row[:, None] * normed_stride + column[None, :]
            wide = tl.load(place, mask=inside, other=0.0).to(tl.float32)
            value = (wide / scale[:, None]).to(codes_ptr.dtype.element_ty)
            tl.store(codes_ptr + row[:, None] * NUM_COLUMNS + column[None, :], value, mask=inside)


def lora_norm_forward(
    product_TD: torch.Tensor,
    weight_D: torch.Tensor,
    *,
    eps: float,
    residual_TD: torch.Tensor,
    normed_out: torch.Tensor,
    sum_out: torch.Tensor,
    t_TR: torch.Tensor | None = None,
    b_DR: torch.Tensor | None = None,
    scaling: float = 1.0,
    bias_D: torch.Tensor | None = None,
    t_out: torch.Tensor | None = None,
    codes: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """As ``reference.lora_norm_forward``."""
    num_rows, width = residual_TD.shape
    if t_TR is not None and b_DR is not None and t_TR.shape[1] > WIDEST_RANK:
        product_TD = product_TD.addmm(t_TR, b_DR.t(), alpha=scaling)
        if t_out is not None:
            t_out.copy_(t_TR)
        t_TR = b_DR = t_out = None
    rank = 1 if t_TR is None else t_TR.shape[1]
    rstd_T = torch.empty(num_rows, dtype=torch.float32, device=product_TD.device)
    _forward_kernel[(triton.cdiv(num_rows, ROWS),)](
        product_TD,
        residual_TD,
        product_TD if t_TR is None else t_TR,
        product_TD if b_DR is None else b_DR,
        product_TD if bias_D is None else bias_D,
        weight_D,
        normed_out,
        sum_out,
        product_TD if t_out is None else t_out,
        rstd_T,
        *(codes or (rstd_T, rstd_T)),
        product_TD.stride(0),
        residual_TD.stride(0),
        0 if t_TR is None else t_TR.stride(0),
        0 if b_DR is None else b_DR.stride(0),
        normed_out.stride(0),
        sum_out.stride(0),
        0 if t_out is None else t_out.stride(0),
        num_rows,
        eps,
        scaling,
        NUM_COLUMNS=width,
        RANK=rank,
        RANK_BLOCK=max(16, triton.next_power_of_2(rank)),
        ROWS=ROWS,  # pyright: ignore[reportArgumentType]
        COLUMNS=min(COLUMNS, max(16, triton.next_power_of_2(width))),
        STAGES=4,
        UPDATE=t_TR is not None,
        BIAS=bias_D is not None,
        KEEP_T=t_out is not None,
        CODES=codes is not None,
        FP8_MAX=FP8_MAX,  # pyright: ignore[reportArgumentType]
        SMALLEST=SMALLEST,  # pyright: ignore[reportArgumentType]
        num_warps=4,  # pyright: ignore[reportCallIssue]
    )
    return rstd_T

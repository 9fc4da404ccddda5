"""SwiGLU and down's ``t = z A^T`` in one pass over gate and up.

```
            columns of I, SPLIT stretches
 16 rows  | program 0 | program 1 | ...      each: z tile -> memory, z tile @ A^T tile -> partial t
                  a second launch adds the partial t up, always in the same order
```
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

ROWS = 16
PROGRAMS = 1024
"""Aimed at; enough to keep 132 multiprocessors busy to the end."""


@triton.jit
def _forward_kernel(
    gate_ptr,
    a_ptr,
    out_ptr,
    partial_ptr,
    gate_stride,
    a_stride,
    out_stride,
    num_rows,
    NUM_COLUMNS: tl.constexpr,
    STRETCH: tl.constexpr,
    RANK: tl.constexpr,
    RANK_BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    STORE: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    split = tl.program_id(1)
    rank = tl.arange(0, RANK_BLOCK)
    row_ok = (row < num_rows)[:, None]
    kind = gate_ptr.dtype.element_ty
    total = tl.zeros((ROWS, RANK_BLOCK), dtype=tl.float32)
    for start in range(0, STRETCH, COLUMNS):
        column = split * STRETCH + start + tl.arange(0, COLUMNS)
        column_ok = (column < NUM_COLUMNS)[None, :]
        inside = row_ok & column_ok
        place = gate_ptr + row[:, None] * gate_stride + column[None, :]
        gate = tl.load(place, mask=inside, other=0.0).to(tl.float32)
        up = tl.load(place + NUM_COLUMNS, mask=inside, other=0.0).to(tl.float32)
        z = (gate * tl.sigmoid(gate) * up).to(kind)
        if STORE:
            tl.store(out_ptr + row[:, None] * out_stride + column[None, :], z, mask=inside)
        a = tl.load(
            a_ptr + rank[:, None] * a_stride + column[None, :],
            mask=(rank < RANK)[:, None] & column_ok,
            other=0.0,
        )
        total = tl.dot(z, tl.trans(a), total, input_precision="ieee")
    place = partial_ptr + (split * num_rows + row[:, None]) * RANK_BLOCK + rank[None, :]
    tl.store(place, total, mask=row_ok)


@triton.jit
def _sum_kernel(
    partial_ptr,
    t_ptr,
    t_stride,
    num_rows,
    SPLIT: tl.constexpr,
    RANK: tl.constexpr,
    RANK_BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    rank = tl.arange(0, RANK_BLOCK)
    row_ok = (row < num_rows)[:, None]
    total = tl.zeros((ROWS, RANK_BLOCK), dtype=tl.float32)
    for split in range(0, SPLIT):
        place = partial_ptr + (split * num_rows + row[:, None]) * RANK_BLOCK + rank[None, :]
        total += tl.load(place, mask=row_ok, other=0.0)
    place = t_ptr + row[:, None] * t_stride + rank[None, :]
    tl.store(place, total.to(t_ptr.dtype.element_ty), mask=row_ok & (rank < RANK)[None, :])


def lora_swiglu_forward(
    gate_up_TJ: torch.Tensor,
    a_RI: torch.Tensor,
    *,
    t_out: torch.Tensor,
    out: torch.Tensor | None,
) -> None:
    """As ``reference.lora_swiglu_forward``."""
    num_rows = gate_up_TJ.shape[0]
    rank, num_columns = a_RI.shape
    rank_block = max(16, triton.next_power_of_2(rank))
    columns = 128
    row_programs = triton.cdiv(num_rows, ROWS)
    split = max(1, min(PROGRAMS // row_programs, triton.cdiv(num_columns, columns)))
    stretch = triton.cdiv(triton.cdiv(num_columns, split), columns) * columns
    split = triton.cdiv(num_columns, stretch)
    partial = torch.empty(
        split, num_rows, rank_block, dtype=torch.float32, device=gate_up_TJ.device
    )
    _forward_kernel[(row_programs, split)](
        gate_up_TJ,
        a_RI,
        gate_up_TJ if out is None else out,
        partial,
        gate_up_TJ.stride(0),
        a_RI.stride(0),
        0 if out is None else out.stride(0),
        num_rows,
        NUM_COLUMNS=num_columns,
        STRETCH=stretch,
        RANK=rank,
        RANK_BLOCK=rank_block,
        ROWS=ROWS,
        COLUMNS=columns,
        STORE=out is not None,
        num_warps=4,
        num_stages=3,
    )
    _sum_kernel[(triton.cdiv(num_rows, 32),)](
        partial,
        t_out,
        t_out.stride(0),
        num_rows,
        SPLIT=split,
        RANK=rank,
        RANK_BLOCK=rank_block,
        ROWS=32,
    )

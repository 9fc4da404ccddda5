"""Rows of a table in Triton, one program per row; the table may be pinned host memory."""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _gather_kernel(
    table_ptr, index_ptr, out_ptr, table_stride, out_stride, num_columns, BLOCK: tl.constexpr
) -> None:
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < num_columns
    source = tl.load(index_ptr + row)
    values = tl.load(table_ptr + source * table_stride + column, mask=inside)
    tl.store(out_ptr + row * out_stride + column, values, mask=inside)


def gather_rows_triton(table_VD: torch.Tensor, index_T: torch.Tensor, *, out: torch.Tensor) -> None:
    """``out[t] = table[index[t]]``; nothing is checked."""
    num_columns = table_VD.shape[1]
    _gather_kernel[(len(index_T),)](
        table_VD,
        index_T,
        out,
        table_VD.stride(0),
        out.stride(0),
        num_columns,
        BLOCK=triton.next_power_of_2(num_columns),
    )

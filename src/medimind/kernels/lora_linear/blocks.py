"""The diagonal blocks of joined adapters, in Triton.

```
joint (O, E)        stacked (O, R)
| Bq  .   .  |      | Bq |
| .   Bk  .  |  <-> | Bk |
| .   .   Bv |      | Bv |
```

For up to three adapters of one rank and one scaling, in order and with no rows between them.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from medimind.kernels.lora_linear.joined import AdapterPart

ROWS = 64


@triton.jit
def _add_kernel(
    joint_ptr,
    total_ptr,
    joint_stride,
    scaling,
    num_rows,
    end0,
    end1,
    RANK: tl.constexpr,
    RANK_BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    rank = tl.arange(0, RANK_BLOCK)
    inside = (row < num_rows)[:, None] & (rank < RANK)[None, :]
    part = (row >= end0).to(tl.int32) + (row >= end1).to(tl.int32)
    source = joint_ptr + row[:, None] * joint_stride + part[:, None] * RANK + rank[None, :]
    target = total_ptr + row[:, None] * RANK + rank[None, :]
    total = tl.load(target, mask=inside, other=0.0)
    total += scaling * tl.load(source, mask=inside, other=0.0)
    tl.store(target, total, mask=inside)


@triton.jit
def _write_kernel(
    stacked_ptr,
    weight_ptr,
    stacked_layer_stride,
    weight_layer_stride,
    weight_stride,
    scaling,
    num_rows,
    end0,
    end1,
    RANK: tl.constexpr,
    RANK_BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
) -> None:
    layer = tl.program_id(1).to(tl.int64)
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    rank = tl.arange(0, RANK_BLOCK)
    inside = (row < num_rows)[:, None] & (rank < RANK)[None, :]
    part = (row >= end0).to(tl.int32) + (row >= end1).to(tl.int32)
    source = stacked_ptr + layer * stacked_layer_stride + row[:, None] * RANK + rank[None, :]
    value = tl.load(source, mask=inside, other=0.0).to(tl.float32) * scaling
    target = weight_ptr + layer * weight_layer_stride + row.to(tl.int64)[:, None] * weight_stride
    target += part[:, None] * RANK + rank[None, :]
    tl.store(target, value.to(weight_ptr.dtype.element_ty), mask=inside)


def add_blocks(joint_OE: torch.Tensor, total_OR: torch.Tensor, parts: list[AdapterPart]) -> None:
    """Adds ``scaling`` times each diagonal block to its rows of ``total_OR`` (contiguous, fp32)."""
    num_rows, rank = total_OR.shape
    ends = [part.rows.stop for part in parts] + [num_rows] * 2
    _add_kernel[(triton.cdiv(num_rows, ROWS),)](
        joint_OE,
        total_OR,
        joint_OE.stride(0),
        parts[0].scaling,
        num_rows,
        ends[0],
        ends[1],
        RANK=rank,  # pyright: ignore[reportArgumentType]
        RANK_BLOCK=triton.next_power_of_2(rank),
        ROWS=ROWS,  # pyright: ignore[reportArgumentType]
    )


def write_blocks(
    stacked_LOR: torch.Tensor,
    weight_LOX: torch.Tensor,
    parts: list[AdapterPart],
    *,
    num_inputs: int,
) -> None:
    """Write ``scaling`` times the stacked B of ``L`` layers to their blocks of joined weights."""
    num_layers, num_rows, rank = stacked_LOR.shape
    ends = [part.rows.stop for part in parts] + [num_rows] * 2
    columns = weight_LOX[:, :, num_inputs:]
    _write_kernel[(triton.cdiv(num_rows, ROWS), num_layers)](
        stacked_LOR,
        columns,
        stacked_LOR.stride(0),
        columns.stride(0),
        columns.stride(1),
        parts[0].scaling,
        num_rows,
        ends[0],
        ends[1],
        RANK=rank,  # pyright: ignore[reportArgumentType]
        RANK_BLOCK=triton.next_power_of_2(rank),
        ROWS=ROWS,  # pyright: ignore[reportArgumentType]
    )

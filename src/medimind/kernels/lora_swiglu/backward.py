"""Gradient of SwiGLU with the four skinny products that meet there, in one pass.

One program takes ``COLUMNS`` columns and a stretch of the rows. Tile by tile it adds ``grad_t A``
to the gradient of ``z``, writes the gradients of gate and up over them, and keeps three sums of
``R x COLUMNS`` in registers: the gradients of down's A and of gate's and up's B. A second launch
adds the stretches up, always in the same order, so results do not change from run to run.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

STRETCH = 4096
"""Rows of one program at most."""
ROWS = 16
"""Rows of a tile: the least that a matrix instruction sums over."""


@triton.jit
def _backward_kernel(
    grad_ptr,
    grad_t_ptr,
    gate_ptr,
    t_ptr,
    a_ptr,
    partial_ptr,
    grad_stride,
    grad_t_stride,
    gate_stride,
    t_stride,
    a_stride,
    num_rows,
    stretch,
    NUM_COLUMNS: tl.constexpr,
    RANK: tl.constexpr,
    RANK_BLOCK: tl.constexpr,
    ROWS: tl.constexpr,
    COLUMNS: tl.constexpr,
    WHOLE: tl.constexpr,
    STAGES: tl.constexpr,
    END: tl.constexpr,
) -> None:
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    split = tl.program_id(1).to(tl.int64)
    first = split * stretch
    grad_ptr += first * grad_stride
    grad_t_ptr += first * grad_t_stride
    gate_ptr += first * gate_stride
    t_ptr += first * t_stride
    num_rows = tl.minimum(num_rows - first.to(tl.int32), stretch)
    rank = tl.arange(0, RANK_BLOCK)
    column_ok = (column < NUM_COLUMNS)[None, :]
    rank_ok = rank < RANK
    kind = gate_ptr.dtype.element_ty
    a = tl.load(
        a_ptr + rank[:, None] * a_stride + column[None, :],
        mask=rank_ok[:, None] & column_ok,
        other=0.0,
    )
    sum_a = tl.zeros((RANK_BLOCK, COLUMNS), dtype=tl.float32)
    sum_gate = tl.zeros((RANK_BLOCK, COLUMNS), dtype=tl.float32)
    sum_up = tl.zeros((RANK_BLOCK, COLUMNS), dtype=tl.float32)
    # Without masks, and with the next tiles on their way, a third faster than otherwise.
    for start in tl.range(0, num_rows if END is None else END, ROWS, num_stages=STAGES):
        row = start + tl.arange(0, ROWS)
        place = gate_ptr + row[:, None] * gate_stride + column[None, :]
        beside = grad_ptr + row[:, None] * grad_stride + column[None, :]
        thin = grad_t_ptr + row[:, None] * grad_t_stride + rank[None, :]
        t_place = t_ptr + row[:, None] * t_stride + rank[None, :]
        if WHOLE:
            gate = tl.load(place).to(tl.float32)
            up = tl.load(place + NUM_COLUMNS).to(tl.float32)
            grad = tl.load(beside).to(tl.float32)
            grad_t = tl.load(thin)
            t_gate = tl.load(t_place)
            t_up = tl.load(t_place + RANK)
        else:
            row_ok = (row < num_rows)[:, None]
            gate = tl.load(place, mask=row_ok & column_ok, other=0.0).to(tl.float32)
            up = tl.load(place + NUM_COLUMNS, mask=row_ok & column_ok, other=0.0).to(tl.float32)
            grad = tl.load(beside, mask=row_ok & column_ok, other=0.0).to(tl.float32)
            grad_t = tl.load(thin, mask=row_ok & rank_ok[None, :], other=0.0)
            t_gate = tl.load(t_place, mask=row_ok & rank_ok[None, :], other=0.0)
            t_up = tl.load(t_place + RANK, mask=row_ok & rank_ok[None, :], other=0.0)
        grad = tl.dot(grad_t, a, grad, input_precision="ieee")
        sigmoid = tl.sigmoid(gate)
        silu = gate * sigmoid
        grad_gate = (grad * up * (sigmoid + silu * (1.0 - sigmoid))).to(kind)
        grad_up = (grad * silu).to(kind)
        if WHOLE:
            tl.store(place, grad_gate)
            tl.store(place + NUM_COLUMNS, grad_up)
        else:
            tl.store(place, grad_gate, mask=row_ok & column_ok)
            tl.store(place + NUM_COLUMNS, grad_up, mask=row_ok & column_ok)
        sum_a = tl.dot(tl.trans(grad_t), (silu * up).to(kind), sum_a, input_precision="ieee")
        sum_gate = tl.dot(tl.trans(t_gate), grad_gate, sum_gate, input_precision="ieee")
        sum_up = tl.dot(tl.trans(t_up), grad_up, sum_up, input_precision="ieee")
    plane = RANK_BLOCK * NUM_COLUMNS
    sums = partial_ptr + split * 3 * plane + rank[:, None] * NUM_COLUMNS + column[None, :]
    tl.store(sums, sum_a, mask=column_ok)
    tl.store(sums + plane, sum_gate, mask=column_ok)
    tl.store(sums + 2 * plane, sum_up, mask=column_ok)


@triton.jit
def _sum_kernel(
    partial_ptr,
    grad_a_ptr,
    grad_b_gate_ptr,
    grad_b_up_ptr,
    scaling,
    num_splits,
    SPLIT_BLOCK: tl.constexpr,
    NUM_COLUMNS: tl.constexpr,
    RANK: tl.constexpr,
    RANK_BLOCK: tl.constexpr,
    COLUMNS: tl.constexpr,
) -> None:
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    which = tl.program_id(1)
    rank = tl.arange(0, RANK_BLOCK)
    column_ok = (column < NUM_COLUMNS)[None, :]
    total = tl.zeros((RANK_BLOCK, COLUMNS), dtype=tl.float32)
    for split in range(0, SPLIT_BLOCK):
        plane = (split * 3 + which) * RANK_BLOCK
        place = partial_ptr + (plane + rank[:, None]) * NUM_COLUMNS + column[None, :]
        total += tl.load(place, mask=column_ok & (split < num_splits), other=0.0)
    inside = column_ok & (rank < RANK)[:, None]
    if which == 0:
        place = grad_a_ptr + rank[:, None] * NUM_COLUMNS + column[None, :]
        tl.store(place, tl.load(place, mask=inside, other=0.0) + total, mask=inside)
    else:
        if which == 1:
            place = grad_b_gate_ptr + column[None, :] * RANK + rank[:, None]
        else:
            place = grad_b_up_ptr + column[None, :] * RANK + rank[:, None]
        before = tl.load(place, mask=inside, other=0.0)
        tl.store(place, before + scaling * total, mask=inside)


def _stretch(num_rows: int) -> int:
    """Rows of one program: half of them, up to a limit.

    No constant of the kernel, as each value would be compiled anew.
    """
    halves = -(-num_rows // (2 * ROWS)) * ROWS
    return min(STRETCH, halves)


def lora_swiglu_backward(
    grad_TI: torch.Tensor,
    grad_t_TR: torch.Tensor,
    gate_up_TJ: torch.Tensor,
    t_TS: torch.Tensor,
    a_RI: torch.Tensor,
    *,
    scaling: float,
    grad_a_RI: torch.Tensor,
    grad_b_gate_IR: torch.Tensor,
    grad_b_up_IR: torch.Tensor,
) -> None:
    """As ``reference.lora_swiglu_backward``; the gradients of A and B must be contiguous."""
    num_rows = gate_up_TJ.shape[0]
    rank, num_columns = a_RI.shape
    rank_block = max(16, 1 << (rank - 1).bit_length())
    columns = 32
    stretch = _stretch(num_rows)
    # The interpreter's loops end at constants; then the last stretch may be a part of one.
    constant = None if grad_TI.is_cuda else stretch
    whole = num_rows % (ROWS if constant is None else stretch) == 0
    split = -(-num_rows // stretch)
    partial = torch.empty(
        split,
        3,
        rank_block,
        num_columns,
        dtype=torch.float32,
        device=grad_TI.device,
    )
    _backward_kernel[(triton.cdiv(num_columns, columns), split)](
        grad_TI,
        grad_t_TR,
        gate_up_TJ,
        t_TS,
        a_RI,
        partial,
        grad_TI.stride(0),
        grad_t_TR.stride(0),
        gate_up_TJ.stride(0),
        t_TS.stride(0),
        a_RI.stride(0),
        num_rows,
        stretch,
        NUM_COLUMNS=num_columns,
        RANK=rank,
        RANK_BLOCK=rank_block,
        ROWS=ROWS,  # pyright: ignore[reportArgumentType]
        COLUMNS=columns,
        WHOLE=whole and num_columns % columns == 0 and rank == rank_block,
        STAGES=4,
        END=constant,
        num_warps=2,  # pyright: ignore[reportCallIssue]
        maxnreg=128,  # pyright: ignore[reportCallIssue]
    )
    _sum_kernel[(triton.cdiv(num_columns, 64), 3)](
        partial,
        grad_a_RI,
        grad_b_gate_IR,
        grad_b_up_IR,
        scaling,
        split,
        SPLIT_BLOCK=triton.next_power_of_2(split),
        NUM_COLUMNS=num_columns,
        RANK=rank,
        RANK_BLOCK=rank_block,
        COLUMNS=64,
        num_warps=4,  # pyright: ignore[reportCallIssue]
    )

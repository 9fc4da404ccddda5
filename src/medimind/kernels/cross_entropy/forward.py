"""Cross-entropy in Triton: one program per row, the gradient written over the logits.

The first pass over a row keeps a running maximum and sum (Milakov & Gimelshein, 2018), the second
writes ``softmax - onehot``; a row of 128k bf16 logits is still in the L2 cache then.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl


@triton.jit
def _cross_entropy_kernel(
    logits_ptr,
    targets_ptr,
    losses_ptr,
    row_stride,
    NUM_COLUMNS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    logits_ptr += row * row_stride
    target = tl.load(targets_ptr + row)
    kind = logits_ptr.dtype.element_ty
    if target < 0:
        tl.store(losses_ptr + row, 0.0)
        for start in range(0, NUM_COLUMNS, BLOCK):
            column = start + tl.arange(0, BLOCK)
            zero = tl.zeros((BLOCK,), dtype=tl.float32)
            tl.store(logits_ptr + column, zero.to(kind), mask=column < NUM_COLUMNS)
    else:
        largest = tl.full((BLOCK,), -float("inf"), dtype=tl.float32)
        total = tl.zeros((BLOCK,), dtype=tl.float32)
        for start in range(0, NUM_COLUMNS, BLOCK):
            column = start + tl.arange(0, BLOCK)
            x = tl.load(logits_ptr + column, mask=column < NUM_COLUMNS, other=-float("inf"))
            x = x.to(tl.float32)
            newest = tl.maximum(largest, x)
            # Lanes that have met no column yet keep a sum of 0.
            safe = tl.where(newest == -float("inf"), 0.0, newest)
            total = total * tl.exp(largest - safe) + tl.exp(x - safe)
            largest = newest
        peak = tl.max(largest, axis=0)
        lse = peak + tl.log(tl.sum(total * tl.exp(largest - peak), axis=0))
        tl.store(losses_ptr + row, lse - tl.load(logits_ptr + target).to(tl.float32))
        for start in range(0, NUM_COLUMNS, BLOCK):
            column = start + tl.arange(0, BLOCK)
            inside = column < NUM_COLUMNS
            x = tl.load(logits_ptr + column, mask=inside, other=0.0).to(tl.float32)
            grad = tl.exp(x - lse) - tl.where(column == target, 1.0, 0.0)
            tl.store(logits_ptr + column, grad.to(kind), mask=inside)


def cross_entropy_(
    logits_NV: torch.Tensor, targets_N: torch.Tensor, *, losses_out: torch.Tensor
) -> None:
    """As ``reference.cross_entropy_``."""
    num_rows, num_columns = logits_NV.shape
    block = min(4096, triton.next_power_of_2(num_columns))
    _cross_entropy_kernel[(num_rows,)](
        logits_NV,
        targets_N,
        losses_out,
        logits_NV.stride(0),
        NUM_COLUMNS=num_columns,
        BLOCK=block,
        num_warps=16 if block >= 4096 else 4,  # pyright: ignore[reportCallIssue]
    )

"""The likeliest token in Triton: one program per row, each logit read once, as it is stored."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

BLOCK = 8192


@triton.jit
def _likeliest_kernel(
    logits_ptr, out_ptr, stride, num_columns, NUM_STEPS: tl.constexpr, BLOCK: tl.constexpr
) -> None:
    row = tl.program_id(0).to(tl.int64)
    place = tl.arange(0, BLOCK)
    best = tl.full((BLOCK,), -float("inf"), dtype=tl.float32)
    index = tl.zeros((BLOCK,), dtype=tl.int32)
    wrong = tl.zeros((BLOCK,), dtype=tl.int32)
    for step in range(0, NUM_STEPS):
        column = step * BLOCK + place
        inside = column < num_columns
        value = tl.load(logits_ptr + row * stride + column, mask=inside, other=-float("inf"))
        value = value.to(tl.float32)
        no_number = (value != value) | (value == float("inf"))
        wrong = tl.where(no_number, 1, wrong)
        value = tl.where(no_number, -float("inf"), value)
        index = tl.where(value > best, column, index)
        best = tl.maximum(best, value)
    highest = tl.max(best, axis=0)
    # The first of several, whatever their place.
    found = tl.min(tl.where(best == highest, index, 2147483647), axis=0)
    bad = (tl.max(wrong, axis=0) > 0) | (highest == -float("inf"))
    tl.store(out_ptr + row, tl.where(bad, -1, found).to(tl.int64))


def likeliest(logits_BV: torch.Tensor, *, out_B: torch.Tensor) -> None:
    """As ``reference.likeliest``; the first of several that are highest."""
    rows, num_columns = logits_BV.shape
    block = min(BLOCK, triton.next_power_of_2(num_columns))
    _likeliest_kernel[(rows,)](
        logits_BV,
        out_B,
        logits_BV.stride(0),
        num_columns,
        NUM_STEPS=triton.cdiv(num_columns, block),
        BLOCK=block,
        num_warps=16,  # pyright: ignore[reportCallIssue]
    )

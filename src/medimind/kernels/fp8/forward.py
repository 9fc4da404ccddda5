"""Row-scaled e4m3 products in Triton, for cards with fp8 tensor cores (Ada, Hopper and later).

One launch multiplies, scales, and adds the low-rank update in the same fp32 sums: an addition of
its own would read and write the whole output again (on an H100 21 ms of an 8B's step at 4,096
tokens, where all fp8 products take 77). Programs stay on their multiprocessor and take one tile
after the other; tiles are fetched by the tensor memory accelerator.
"""

from __future__ import annotations

from functools import cache

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

from medimind.kernels.fp8.reference import FP8_MAX, SMALLEST

TILE_M, TILE_N, TILE_K = 128, 256, 128
GROUP_M = 8
"""Tiles of so many rows share the columns of w while these are in the L2 cache."""


@triton.jit
def _quantize_kernel(
    x_ptr,
    out_ptr,
    scale_ptr,
    x_stride,
    out_stride,
    num_columns,
    FP8_MAX: tl.constexpr,
    SMALLEST: tl.constexpr,
    BLOCK: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    column = tl.arange(0, BLOCK)
    inside = column < num_columns
    x = tl.load(x_ptr + row * x_stride + column, mask=inside, other=0.0).to(tl.float32)
    scale = tl.maximum(tl.max(tl.abs(x), axis=0), SMALLEST) / FP8_MAX
    tl.store(scale_ptr + row, scale)
    value = (x / scale).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * out_stride + column, value, mask=inside)


@triton.jit(do_not_specialize=["num_turns"])  # it follows from the number of rows
def _linear_kernel(
    x_desc,
    w_desc,
    t_desc,
    b_desc,
    out_desc,
    x_scale_ptr,
    w_scale_ptr,
    num_rows,
    num_columns,
    num_turns,
    TURNS: tl.constexpr,
    NUM_STEPS: tl.constexpr,
    TILE_M: tl.constexpr,
    TILE_N: tl.constexpr,
    TILE_K: tl.constexpr,
    GROUP_M: tl.constexpr,
    NUM_PROGRAMS: tl.constexpr,
    UPDATE: tl.constexpr,
) -> None:
    tiles_m = tl.cdiv(num_rows, TILE_M)
    tiles_n = tl.cdiv(num_columns, TILE_N)
    in_group = GROUP_M * tiles_n
    for turn in range(0, num_turns if TURNS is None else TURNS):
        tile = tl.program_id(0) + turn * NUM_PROGRAMS
        if tile < tiles_m * tiles_n:
            first_m = (tile // in_group) * GROUP_M
            group = tl.minimum(tiles_m - first_m, GROUP_M)
            start_m = (first_m + (tile % in_group) % group) * TILE_M
            start_n = ((tile % in_group) // group) * TILE_N
            total = tl.zeros((TILE_M, TILE_N), dtype=tl.float32)
            for step in range(0, NUM_STEPS):
                x = x_desc.load([start_m, step * TILE_K])
                w = w_desc.load([start_n, step * TILE_K])
                total = tl.dot(x, w.T, total)
            row = start_m + tl.arange(0, TILE_M)
            column = start_n + tl.arange(0, TILE_N)
            x_scale = tl.load(x_scale_ptr + row, mask=row < num_rows, other=0.0)
            w_scale = tl.load(w_scale_ptr + column, mask=column < num_columns, other=0.0)
            total = total * x_scale[:, None] * w_scale[None, :]
            if UPDATE:
                t = t_desc.load([start_m, 0])
                b = b_desc.load([start_n, 0])
                total = tl.dot(t, b.T, total)
            out_desc.store([start_m, start_n], total.to(out_desc.dtype))


def quantize_rows(
    x_TI: torch.Tensor, *, out_TI: torch.Tensor, scale_T: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """As ``reference.quantize_rows``."""
    num_rows, num_columns = x_TI.shape
    block = triton.next_power_of_2(num_columns)
    _quantize_kernel[(num_rows,)](
        x_TI,
        out_TI,
        scale_T,
        x_TI.stride(0),
        out_TI.stride(0),
        num_columns,
        FP8_MAX=FP8_MAX,  # pyright: ignore[reportArgumentType]
        SMALLEST=SMALLEST,  # pyright: ignore[reportArgumentType]
        BLOCK=block,
        num_warps=min(16, max(4, block // 1024)),  # pyright: ignore[reportCallIssue]
    )
    return out_TI, scale_T


def fp8_linear(
    x8_TI: torch.Tensor,
    x_scale_T: torch.Tensor,
    w8_OI: torch.Tensor,
    w_scale_O: torch.Tensor,
    *,
    update: tuple[torch.Tensor, torch.Tensor] | None = None,
    out_TO: torch.Tensor,
) -> torch.Tensor:
    """As ``reference.fp8_linear``; rows of all matrices start at multiples of 16 bytes."""
    if update is not None and update[0].shape[1] != triton.next_power_of_2(update[0].shape[1]):
        # No tile is that wide (three ranks of 64 take 192 columns): by a product of its own.
        fp8_linear(x8_TI, x_scale_T, w8_OI, w_scale_O, out_TO=out_TO)
        return out_TO.addmm_(update[0], update[1].t())
    if update is None and out_TO.dtype == torch.bfloat16 and out_TO.is_contiguous():
        # Without an update torch's own product is 10 % faster than ours.
        torch._scaled_mm(  # pyright: ignore[reportPrivateImportUsage]
            x8_TI,
            w8_OI.t(),
            scale_a=x_scale_T[:, None],
            scale_b=w_scale_O[None],
            out_dtype=out_TO.dtype,
            use_fast_accum=True,
            out=out_TO,
        )
        return out_TO
    num_rows, num_inputs = x8_TI.shape
    num_columns = w8_OI.shape[0]
    x_desc = TensorDescriptor.from_tensor(x8_TI, [TILE_M, TILE_K])
    w_desc = TensorDescriptor.from_tensor(w8_OI, [TILE_N, TILE_K])
    t_desc, b_desc = x_desc, w_desc
    if update is not None:
        t_TE, b_OE = update
        t_desc = TensorDescriptor.from_tensor(t_TE, [TILE_M, t_TE.shape[1]])
        b_desc = TensorDescriptor.from_tensor(b_OE, [TILE_N, b_OE.shape[1]])
    tiles = triton.cdiv(num_rows, TILE_M) * triton.cdiv(num_columns, TILE_N)
    programs = min(tiles, _num_multiprocessors(x8_TI.device))
    turns = triton.cdiv(tiles, programs)
    _linear_kernel[(programs,)](
        x_desc,
        w_desc,
        t_desc,
        b_desc,
        TensorDescriptor.from_tensor(out_TO, [TILE_M, TILE_N]),
        x_scale_T,
        w_scale_O,
        num_rows,
        num_columns,
        turns,
        TURNS=None if x8_TI.is_cuda else turns,  # the interpreter's loops end at constants
        NUM_STEPS=triton.cdiv(num_inputs, TILE_K),
        TILE_M=TILE_M,  # pyright: ignore[reportArgumentType]
        TILE_N=TILE_N,  # pyright: ignore[reportArgumentType]
        TILE_K=TILE_K,  # pyright: ignore[reportArgumentType]
        GROUP_M=GROUP_M,  # pyright: ignore[reportArgumentType]
        NUM_PROGRAMS=programs,
        UPDATE=update is not None,
        num_warps=8,  # pyright: ignore[reportCallIssue]
        num_stages=3,  # pyright: ignore[reportCallIssue]
    )
    return out_TO


@cache
def _num_multiprocessors(device: torch.device) -> int:
    if device.type != "cuda":
        return 4
    return torch.cuda.get_device_properties(device).multi_processor_count

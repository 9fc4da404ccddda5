"""Products with weights in NF4 for few rows, in Triton: 4 bits a weight are read, not 16.

One program decodes tiles of the weights in registers, bit for bit as ``dequantize_nf4`` rounds
them, and multiplies them with all rows on the tensor cores. Where a weight has too few outputs to
fill the card, several programs share a tile of outputs, each with a stretch of the inputs; the one
that comes last adds their sums up, in a fixed order.

Bytes moved per weight: 0.5 + 1/16.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
import triton
import triton.language as tl

from medimind.kernels.nf4.codes import nf4_code
from medimind.kernels.nf4_linear.decode import ROUNDED_REGISTERS, TABLE, TO_BF16, TO_FP16
from medimind.kernels.nf4_linear.reference import Nf4Parts
from medimind.kernels.nf4_linear.vector import nf4_vector

BLOCK = 64
"""Weights of one scale."""


@dataclass(frozen=True, slots=True)
class Tiles:
    """How the work is cut.

    Attributes:
        rows: Rows of a tile.
        outputs: Outputs of a tile.
        inputs: Inputs decoded at once.
        programs: About so many in all.
        warps: Of a program.
        stages: Tiles under way from memory.
    """

    rows: int
    outputs: int
    inputs: int
    programs: int
    warps: int
    stages: int


def tiles_for(rows: int) -> Tiles:
    """What was fastest on an H100 among a few; see docs/notes/gpu_generate.md."""
    if rows <= 16:
        return Tiles(rows=16, outputs=64, inputs=128, programs=528, warps=4, stages=4)
    if rows <= 64:
        size = 32 if rows <= 32 else 64
        return Tiles(rows=size, outputs=64, inputs=128, programs=396, warps=4, stages=3)
    return Tiles(rows=128, outputs=128, inputs=64, programs=264, warps=8, stages=3)


def rounds_in_pairs(x: torch.Tensor) -> bool:
    """Whether the card rounds two values to 16 bits in one instruction: not before Ampere."""
    if not x.is_cuda or x.dtype == torch.float32:
        return False
    return torch.cuda.get_device_capability(x.device) >= (8, 0)


@triton.jit
def _decode(
    packed, scale, code_ptr, table, kind: tl.constexpr, SHUFFLE: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """The first and the second weights of all bytes."""
    if SHUFFLE:
        if kind == tl.bfloat16:
            first, second = tl.inline_asm_elementwise(
                TO_BF16,
                ROUNDED_REGISTERS,
                [packed, table, scale],
                dtype=(tl.bfloat16, tl.bfloat16),
                is_pure=True,
                pack=4,
            )
        else:
            first, second = tl.inline_asm_elementwise(
                TO_FP16,
                ROUNDED_REGISTERS,
                [packed, table, scale],
                dtype=(tl.float16, tl.float16),
                is_pure=True,
                pack=4,
            )
    else:
        code = packed.to(tl.int32)
        first = (tl.load(code_ptr + (code >> 4)) * scale).to(kind)
        second = (tl.load(code_ptr + (code & 15)) * scale).to(kind)
    return first, second


@triton.jit
def _linear_kernel(
    x_ptr,
    packed0_ptr,
    packed1_ptr,
    packed2_ptr,
    scale0_ptr,
    scale1_ptr,
    scale2_ptr,
    code_ptr,
    t_ptr,
    b_ptr,
    out_ptr,
    partial_ptr,
    count_ptr,
    x_stride,
    t_stride,
    b_stride,
    out_stride,
    num_rows,
    outputs0,
    outputs1,
    outputs2,
    tiles0,
    tiles1,
    NUM_INPUTS: tl.constexpr,
    NUM_COLUMNS: tl.constexpr,
    NUM_STEPS: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    INPUTS: tl.constexpr,
    BLOCK: tl.constexpr,
    SHUFFLE: tl.constexpr,
) -> None:
    tile = tl.program_id(0)
    split = tl.program_id(1)
    packed_ptr = packed0_ptr
    scale_ptr = scale0_ptr
    num_outputs = outputs0
    before = 0
    own = tile
    if tile >= tiles0 + tiles1:
        packed_ptr = packed2_ptr
        scale_ptr = scale2_ptr
        num_outputs = outputs2
        before = outputs0 + outputs1
        own = tile - tiles0 - tiles1
    elif tile >= tiles0:
        packed_ptr = packed1_ptr
        scale_ptr = scale1_ptr
        num_outputs = outputs1
        before = outputs0
        own = tile - tiles0
    row = tl.program_id(2) * ROWS + tl.arange(0, ROWS)
    row_ok = row < num_rows
    output = own * OUTPUTS + tl.arange(0, OUTPUTS)
    output_ok = output < num_outputs
    # Rows beyond the end are read from the last one: only what is stored is masked.
    weight = tl.minimum(output, num_outputs - 1)
    start = split * (NUM_STEPS * INPUTS)
    byte = tl.arange(0, INPUTS // 2)
    place = tl.arange(0, INPUTS)
    block = tl.arange(0, INPUTS // BLOCK)
    kind = x_ptr.dtype.element_ty
    table = 0
    if SHUFFLE:
        table = tl.inline_asm_elementwise(
            TABLE, "=r,l", [code_ptr.to(tl.int64)], tl.int32, is_pure=True, pack=1
        )
    packed_at = packed_ptr + weight[:, None] * (NUM_INPUTS // 2) + (start // 2 + byte)[None, :]
    scale_at = scale_ptr + weight[:, None] * (NUM_INPUTS // BLOCK) + (start // BLOCK + block)[None]
    x_at = x_ptr + row[:, None] * x_stride + (start + place)[None, :]
    total = tl.zeros((ROWS, OUTPUTS), dtype=tl.float32)
    for step in range(0, NUM_STEPS):
        x = tl.load(x_at + step * INPUTS, mask=row_ok[:, None], other=0.0)
        packed = tl.load(packed_at + step * (INPUTS // 2))
        scale = tl.load(scale_at + step * (INPUTS // BLOCK))
        wide = tl.broadcast_to(scale[:, :, None], (OUTPUTS, INPUTS // BLOCK, BLOCK // 2))
        wide = tl.reshape(wide, (OUTPUTS, INPUTS // 2))
        first, second = _decode(packed, wide, code_ptr, table, kind, SHUFFLE)
        w = tl.reshape(tl.join(first, second), (OUTPUTS, INPUTS))
        total = tl.dot(x, tl.trans(w), total, input_precision="ieee")
    is_last = True
    if NUM_SPLITS > 1:
        group = tl.program_id(2) * tl.num_programs(0) + tile
        inside = tl.arange(0, ROWS)[:, None] * OUTPUTS + tl.arange(0, OUTPUTS)[None, :]
        partial_at = partial_ptr + group.to(tl.int64) * (NUM_SPLITS * ROWS * OUTPUTS) + inside
        tl.store(partial_at + split * (ROWS * OUTPUTS), total)
        tl.debug_barrier()  # all of this program's sums are written before it counts as done
        done = tl.atomic_add(count_ptr + group, 1)
        is_last = done == NUM_SPLITS - 1
        if is_last:
            tl.store(count_ptr + group, 0)
            total = tl.zeros((ROWS, OUTPUTS), dtype=tl.float32)
            for one in range(0, NUM_SPLITS):
                total += tl.load(partial_at + one * (ROWS * OUTPUTS), cache_modifier=".cg")
    if is_last:
        for column in tl.static_range(0, NUM_COLUMNS, BLOCK):
            extra = column + tl.arange(0, BLOCK)
            t = tl.load(
                t_ptr + row[:, None] * t_stride + extra[None, :], mask=row_ok[:, None], other=0.0
            )
            b = tl.load(
                b_ptr + (before + output)[:, None] * b_stride + extra[None, :],
                mask=output_ok[:, None],
                other=0.0,
            )
            total = tl.dot(t, tl.trans(b), total, input_precision="ieee")
        target = out_ptr + row[:, None] * out_stride + (before + output)[None, :]
        inside_out = row_ok[:, None] & output_ok[None, :]
        tl.store(target, total.to(out_ptr.dtype.element_ty), mask=inside_out)


def nf4_linear(
    x_BI: torch.Tensor,
    parts: Nf4Parts,
    *,
    update: tuple[torch.Tensor, torch.Tensor] | None = None,
    out_BO: torch.Tensor,
    tiles: Tiles | None = None,
) -> torch.Tensor:
    """As ``reference.nf4_linear``; values of a row lie side by side in all matrices."""
    rows, num_inputs = x_BI.shape
    if rows == 1 and tiles is None:
        return nf4_vector(x_BI, parts, update=update, out_1O=out_BO)
    tiles = tiles or tiles_for(rows)
    step = tiles.inputs if num_inputs % tiles.inputs == 0 else BLOCK
    outputs = [weight.shape[0] for weight in parts.weights]
    counts = [-(-size // tiles.outputs) for size in outputs]
    row_tiles = -(-rows // tiles.rows)
    groups = sum(counts) * row_tiles
    splits = _num_splits(num_inputs // step, tiles.programs // groups)
    partial = count = out_BO
    if splits > 1:
        size = groups * splits * tiles.rows * tiles.outputs
        partial = torch.empty(size, dtype=torch.float32, device=x_BI.device)
        count = _counters(x_BI.device, groups)
    weights = [parts.weights[min(i, len(outputs) - 1)].packed_P for i in range(3)]
    scales = [parts.scales[min(i, len(outputs) - 1)] for i in range(3)]
    t_BE, b_OE = (x_BI, out_BO) if update is None else update
    sizes = [*outputs, 0, 0][:3]
    launch: Any = _linear_kernel[(sum(counts), splits, row_tiles)]
    launch(
        x_BI,
        *weights,
        *scales,
        nf4_code(x_BI.device),
        t_BE,
        b_OE,
        out_BO,
        partial,
        count,
        x_BI.stride(0),
        t_BE.stride(0),
        b_OE.stride(0),
        out_BO.stride(0),
        rows,
        *sizes,
        counts[0],
        counts[1] if len(counts) > 1 else 0,
        NUM_INPUTS=num_inputs,
        NUM_COLUMNS=0 if update is None else t_BE.shape[1],
        NUM_STEPS=num_inputs // (step * splits),
        NUM_SPLITS=splits,
        ROWS=tiles.rows,
        OUTPUTS=tiles.outputs,
        INPUTS=step,
        BLOCK=BLOCK,
        SHUFFLE=rounds_in_pairs(x_BI),
        num_warps=tiles.warps,
        num_stages=tiles.stages,
    )
    return out_BO


def _num_splits(num_steps: int, wanted: int) -> int:
    """The most stretches of equal length, not more than wanted."""
    return max(n for n in range(1, max(1, min(wanted, num_steps)) + 1) if num_steps % n == 0)


@cache
def _counters(device: torch.device, groups: int) -> torch.Tensor:
    """Zeros, which each launch leaves as zeros."""
    return torch.zeros(groups, dtype=torch.int32, device=device)

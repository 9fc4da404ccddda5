# Gluon's builtins take their hidden arguments from its compiler; its annotations do not say so.
# pyright: reportArgumentType=false, reportCallIssue=false, reportGeneralTypeIssues=false
# pyright: reportOperatorIssue=false, reportAttributeAccessIssue=false, reportAssignmentType=false
"""Products with weights in NF4 on Hopper's tensor cores, in Gluon: decoded where they are used.

Weights are the left factor of ``wgmma``, which it takes from registers: a decoded weight never
goes through shared memory. Codes come in the order of those registers (``repack.py``), so a lane
decodes twice 4 of them by looking up bytes in registers (``prmt``), and rounds ``code x scale`` to
bf16. The values of the codes and the scales are rounded to bf16 too, which adds about as much
error to a weight as its own rounding (0.1 % of it; NF4 is off by 8 %).

The product is computed transposed, ``out^T = W x^T``. While the tensor cores work on half a step,
the next half is decoded. Programmatic launches let a program send for its first weights while the
launch before it ends.
"""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from triton.experimental import gluon
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.language.nvidia.hopper import (
    async_copy,
    fence_async_shared,
    mbarrier,
    tma,
    warpgroup_mma,
    warpgroup_mma_init,
    warpgroup_mma_wait,
)
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from medimind.kernels.nf4.codes import NF4_CODE


@cache
def code_table(device: torch.device) -> torch.Tensor:
    """int32 ``(8,)``: the low, then the high bytes of the 16 values in bf16, four to a word.

    Kept, since graphs that were captured read it.
    """
    bits = torch.tensor(NF4_CODE).to(torch.bfloat16).view(torch.uint8).view(16, 2)
    return bits.t().contiguous().view(torch.int32).flatten().to(device)


def _decode_text(half: int) -> str:
    """Half of eight codes ($2) and the scales of their outputs ($3, $4) to weights ($0, $1).

    A word of the table comes as four operands, for the four elements that are decoded at once.
    """
    low0, low1, low2, low3, high0, high1, high2, high3 = (f"${5 + 4 * word}" for word in range(8))
    lines = ["{", ".reg .b32 index, even, mask, a, b, low, high;"]
    lines += ["and.b32 index, $2, 0x77777777;", "shl.b32 even, $2, 4;"]
    if half:
        lines.append("shr.u32 index, index, 16;")
    # The highest bit of each code, all over a byte: which half of the table it is in.
    lines.append(f"prmt.b32 mask, $2, even, {('0x9d8c', '0xbfae')[half]};")
    for name, words in (
        ("low", (low0, low1, low2, low3)),
        ("high", (high0, high1, high2, high3)),
    ):
        lines.append(f"prmt.b32 a, {words[0]}, {words[1]}, index;")
        lines.append(f"prmt.b32 b, {words[2]}, {words[3]}, index;")
        lines.append(f"lop3.b32 {name}, a, b, mask, 0xd8;")
    lines += ["prmt.b32 $0, low, high, 0x5140;", "prmt.b32 $1, low, high, 0x7362;"]
    return "\n".join([*lines, "mul.rn.bf16x2 $0, $0, $3;", "mul.rn.bf16x2 $1, $1, $4;", "}"])


FIRST: Any = gl.constexpr(_decode_text(0))
SECOND: Any = gl.constexpr(_decode_text(1))
REGISTERS: Any = gl.constexpr(",".join(["=&r"] * 2 + ["r"] * (3 + 8 * 4)))


@gluon.jit
def _copy_weights(
    codes_ptr,
    codes_smem,
    scales_ptr,
    scales_smem,
    unit,
    step,
    num_outputs,
    UNITS: gl.constexpr,
    INPUTS: gl.constexpr,
) -> None:
    """Send for a step's codes and scales."""
    BYTES: gl.constexpr = gl.BlockedLayout([16], [32], [UNITS], [0])
    PAIRS: gl.constexpr = gl.BlockedLayout([1], [32], [UNITS], [0])
    # Outputs beyond the end are read from the last ones: only what is stored is masked.
    place = gl.arange(0, UNITS * 512, BYTES)
    of = gl.minimum(unit + place // 512, num_outputs // 16 - 1)
    at = codes_ptr + of.to(gl.int64) * (INPUTS * 8) + step * 512 + place % 512
    at = gl.multiple_of(gl.max_contiguous(at, 16), 16)
    async_copy.async_copy_global_to_shared(codes_smem, at)
    pair = gl.minimum(unit * 8 + gl.arange(0, UNITS * 8, PAIRS), num_outputs // 2 - 1)
    scale_at = scales_ptr + step * (num_outputs // 2) + pair
    async_copy.async_copy_global_to_shared(scales_smem, scale_at)


@gluon.jit
def _codes_and_scales(codes_smem, scales_smem, UNITS: gl.constexpr, LEFT: gl.constexpr) -> tuple:
    """Codes, two to a byte, and the scale of each, ``(16 UNITS, 32)``."""
    BYTES: gl.constexpr = gl.BlockedLayout([16], [32], [UNITS], [0])
    packed = codes_smem.load(BYTES)
    packed = packed.reshape([UNITS, 8, 4, 2, 2, 2, 2]).permute((0, 5, 1, 3, 4, 2, 6))
    packed = gl.convert_layout(packed.reshape([UNITS * 16, 32]), LEFT)
    PLAIN: gl.constexpr = gl.SwizzledSharedLayout(1, 1, 1, [0])
    scale_smem = scales_smem._reinterpret(gl.bfloat16, [UNITS * 16], PLAIN)
    scale = scale_smem.load(gl.SliceLayout(1, LEFT))
    scale, _ = gl.broadcast(gl.expand_dims(scale, 1), packed)
    return packed, scale


@gluon.jit
def _decode(packed, scale, table, TEXT: gl.constexpr) -> Any:
    """Weights of one half of the inputs, ``(16 UNITS, 32)``, as the left factor."""
    return gl.inline_asm_elementwise(
        TEXT,
        REGISTERS,
        [
            packed,
            scale,
            table[0],
            table[1],
            table[2],
            table[3],
            table[4],
            table[5],
            table[6],
            table[7],
        ],
        dtype=gl.bfloat16,
        is_pure=True,
        pack=4,
    )


@gluon.jit
def _begin_step(
    step,
    begin,
    count,
    x_desc,
    x_smem,
    codes_ptr,
    codes_smem,
    scales_ptr,
    scales_smem,
    bars,
    row,
    unit,
    num_outputs,
    UNITS: gl.constexpr,
    ROWS: gl.constexpr,
    INPUTS: gl.constexpr,
    STAGES: gl.constexpr,
    LEFT: gl.constexpr,
) -> tuple:
    """Send for a later step; this one's codes and scales, whose inputs are there too."""
    slot = step % STAGES
    ahead = step + STAGES - 2
    to = ahead % STAGES
    async_copy.wait_group(STAGES - 3)
    # All warps have what was multiplied two steps ago behind them: its place is free.
    gl.thread_barrier()
    mbarrier.expect(bars.index(to), ROWS * 128, pred=ahead < count)
    tma.async_copy_global_to_shared(
        x_desc, [row, (begin + ahead) * 64], bars.index(to), x_smem.index(to), pred=ahead < count
    )
    if ahead < count:
        _copy_weights(
            codes_ptr,
            codes_smem.index(to),
            scales_ptr,
            scales_smem.index(to),
            unit,
            begin + ahead,
            num_outputs,
            UNITS,
            INPUTS,
        )
    async_copy.commit_group()
    packed, scale = _codes_and_scales(codes_smem.index(slot), scales_smem.index(slot), UNITS, LEFT)
    mbarrier.wait(bars.index(slot), (step // STAGES) & 1)
    return packed, scale


@gluon.jit
def _store(
    value,
    out_ptr,
    out_stride,
    first,
    num_outputs,
    row,
    num_rows,
    OUTPUTS: gl.constexpr,
    ROWS: gl.constexpr,
    UNITS: gl.constexpr,
) -> None:
    """Write a tile ``(OUTPUTS, ROWS)`` to rows of outputs."""
    STORE: gl.constexpr = gl.BlockedLayout([8, 1], [4, 8], [1, UNITS], [0, 1])
    out = gl.convert_layout(value.to(out_ptr.dtype.element_ty), STORE)
    output = first + gl.arange(0, OUTPUTS, gl.SliceLayout(1, STORE))
    place = row + gl.arange(0, ROWS, gl.SliceLayout(0, STORE))
    target = out_ptr + place.to(gl.int64)[None, :] * out_stride + output[:, None]
    gl.store(target, out, mask=(output < num_outputs)[:, None] & (place < num_rows)[None, :])


@gluon.jit
def linear_kernel(
    x_desc,
    codes_ptr,
    scales_ptr,
    table_ptr,
    t_desc,
    b_ptr,
    out_ptr,
    b_stride,
    out_stride,
    num_rows,
    num_outputs,
    num_splits,
    INPUTS: gl.constexpr,
    COLUMNS: gl.constexpr,
    MODE: gl.constexpr,
    PDL: gl.constexpr,
    ROWS: gl.constexpr,
    STAGES: gl.constexpr,
    UNITS: gl.constexpr,
) -> None:
    """One tile ``(16 UNITS, ROWS)`` of the product over a stretch of the inputs.

    ``MODE`` says where it goes: ``out`` to rows of outputs, ``swiglu`` likewise after gating,
    ``parts`` in fp32 to a matrix of its stretch.
    """
    OUTPUTS: gl.constexpr = UNITS * 16
    TOTAL: gl.constexpr = gl.NVMMADistributedLayout([3, 0], [UNITS, 1], [16, ROWS, 16])
    LEFT: gl.constexpr = gl.DotOperandLayout(0, TOTAL, 2)
    PAIRS: gl.constexpr = INPUTS // 128
    tile = gl.program_id(0)
    split = gl.program_id(1)
    row = gl.program_id(2) * ROWS
    begin = split * PAIRS // num_splits * 2
    count = (split + 1) * PAIRS // num_splits * 2 - begin
    unit = tile * UNITS
    x_smem = gl.allocate_shared_memory(gl.bfloat16, [STAGES, ROWS, 64], x_desc.layout)
    codes_smem = gl.allocate_shared_memory(
        gl.uint8, [STAGES, UNITS * 512], gl.SwizzledSharedLayout(16, 1, 1, [0])
    )
    scales_smem = gl.allocate_shared_memory(
        gl.int32, [STAGES, UNITS * 8], gl.SwizzledSharedLayout(1, 1, 1, [0])
    )
    bars = gl.allocate_shared_memory(gl.int64, [STAGES + 1, 1], mbarrier.MBarrierLayout())
    for bar in gl.static_range(STAGES + 1):
        mbarrier.init(bars.index(bar), count=1)
    fence_async_shared()
    if PDL:
        gdc_launch_dependents()
    for early in gl.static_range(STAGES - 2):
        mbarrier.expect(bars.index(early), ROWS * 128, pred=early < count)
        if early < count:
            _copy_weights(
                codes_ptr,
                codes_smem.index(early),
                scales_ptr,
                scales_smem.index(early),
                unit,
                begin + early,
                num_outputs,
                UNITS,
                INPUTS,
            )
        async_copy.commit_group()
    gl.thread_barrier()
    if PDL:
        # Weights never change; inputs are there once the launch before is done.
        gdc_wait()
    for early in gl.static_range(STAGES - 2):
        tma.async_copy_global_to_shared(
            x_desc,
            [row, (begin + early) * 64],
            bars.index(early),
            x_smem.index(early),
            pred=early < count,
        )
    total = gl.zeros((OUTPUTS, ROWS), gl.float32, TOTAL)
    for column in gl.static_range(0, COLUMNS, 64):
        # The adapters' columns, once.
        mbarrier.expect(bars.index(STAGES), ROWS * 128)
        tma.async_copy_global_to_shared(
            t_desc, [row, column], bars.index(STAGES), x_smem.index(STAGES - 1)
        )
        output = unit * 16 + gl.arange(0, OUTPUTS, gl.SliceLayout(1, LEFT))
        source = output
        if MODE == "swiglu":
            source = output // 16 * 8 + output % 8 + output % 16 // 8 * (num_outputs // 2)
        extra = column + gl.arange(0, 64, gl.SliceLayout(0, LEFT))
        inside = (output < num_outputs)[:, None] & (split == 0)
        b = gl.load(
            b_ptr + source.to(gl.int64)[:, None] * b_stride + extra[None, :], mask=inside, other=0.0
        )
        mbarrier.wait(bars.index(STAGES), (column // 64) & 1)
        total = warpgroup_mma(b, x_smem.index(STAGES - 1).permute((1, 0)), total, is_async=True)
        total = warpgroup_mma_wait(0, deps=[total])
        gl.thread_barrier()
    # Loaded, not written into the code: constants would be moved to registers at each use.
    table = (
        gl.load(table_ptr),
        gl.load(table_ptr + 1),
        gl.load(table_ptr + 2),
        gl.load(table_ptr + 3),
        gl.load(table_ptr + 4),
        gl.load(table_ptr + 5),
        gl.load(table_ptr + 6),
        gl.load(table_ptr + 7),
    )
    running = warpgroup_mma_init(total)
    # With a way around the loop, on which the sums are zeros, ptxas runs one wgmma at a time. There
    # is none: a stretch is 128 inputs or more.
    gl.assume(count >= 2)
    # Half of a step's weights at a time: one half is decoded while the one before is multiplied.
    # Registers of a factor must not change meanwhile, so its place is taken two halves later.
    for step in range(0, count):
        packed, scale = _begin_step(
            step,
            begin,
            count,
            x_desc,
            x_smem,
            codes_ptr,
            codes_smem,
            scales_ptr,
            scales_smem,
            bars,
            row,
            unit,
            num_outputs,
            UNITS,
            ROWS,
            INPUTS,
            STAGES,
            LEFT,
        )
        x = x_smem.index(step % STAGES)
        total = warpgroup_mma_wait(1, deps=[running])
        weights = _decode(packed, scale, table, FIRST)
        first_x = x.slice(0, 32, dim=1).permute((1, 0))
        running = warpgroup_mma(weights, first_x, total, is_async=True)
        total = warpgroup_mma_wait(1, deps=[running])
        weights = _decode(packed, scale, table, SECOND)
        second_x = x.slice(32, 32, dim=1).permute((1, 0))
        running = warpgroup_mma(weights, second_x, total, is_async=True)
    total = warpgroup_mma_wait(0, deps=[running])
    async_copy.wait_group(0)
    for bar in gl.static_range(STAGES + 1):
        mbarrier.invalidate(bars.index(bar))
    if MODE == "parts":
        output = unit * 16 + gl.arange(0, OUTPUTS, gl.SliceLayout(1, TOTAL))
        place = row + gl.arange(0, ROWS, gl.SliceLayout(0, TOTAL))
        at = out_ptr + (split * num_rows + place).to(gl.int64)[None, :] * num_outputs
        inside = (output < num_outputs)[:, None] & (place < num_rows)[None, :]
        gl.store(at + output[:, None], total, mask=inside)
    else:
        if MODE == "swiglu":
            # A lane holds outputs g and g + 8 of a unit: one of gate and its partner of up.
            pairs = total.to(gl.bfloat16).to(gl.float32).reshape([UNITS, 2, 8, ROWS])
            gate, up = gl.split(pairs.permute((0, 2, 3, 1)))
            value = (gate / (1.0 + gl.exp(-gate)) * up).reshape([UNITS * 8, ROWS])
            _store(
                value,
                out_ptr,
                out_stride,
                unit * 8,
                num_outputs // 2,
                row,
                num_rows,
                UNITS * 8,
                ROWS,
                UNITS,
            )
        else:
            _store(
                total,
                out_ptr,
                out_stride,
                unit * 16,
                num_outputs,
                row,
                num_rows,
                OUTPUTS,
                ROWS,
                UNITS,
            )

"""Products of one row with weights in NF4, in Triton: each weight is read once, as 4 bits.

No tensor cores and no shared memory for the weights: with one row a decoded weight is used once,
where it was decoded. It is not rounded to the dtype of ``x`` in between.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl

from medimind.kernels.nf4.codes import nf4_code
from medimind.kernels.nf4_linear.decode import CODES_REGISTERS, TABLE, TO_CODES
from medimind.kernels.nf4_linear.reference import Nf4Parts

BLOCK = 64
OUTPUTS, STEP, WARPS, STAGES = 4, 512, 4, 1


@triton.jit
def _vector_kernel(
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
    b_stride,
    outputs0,
    outputs1,
    outputs2,
    tiles0,
    tiles1,
    NUM_INPUTS: tl.constexpr,
    NUM_COLUMNS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    STEP: tl.constexpr,
    BLOCK: tl.constexpr,
    STAGES: tl.constexpr,
    SHUFFLE: tl.constexpr,
) -> None:
    tile = tl.program_id(0)
    packed_ptr = packed0_ptr
    scale_ptr = scale0_ptr
    num_outputs = outputs0
    before = 0
    if tile >= tiles0 + tiles1:
        packed_ptr = packed2_ptr
        scale_ptr = scale2_ptr
        num_outputs = outputs2
        before = outputs0 + outputs1
        tile -= tiles0 + tiles1
    elif tile >= tiles0:
        packed_ptr = packed1_ptr
        scale_ptr = scale1_ptr
        num_outputs = outputs1
        before = outputs0
        tile -= tiles0
    output = tile * OUTPUTS + tl.arange(0, OUTPUTS)
    output_ok = output < num_outputs
    weight = tl.minimum(output, num_outputs - 1)[:, None]
    byte = tl.arange(0, STEP // 2)
    pair = byte[:, None] * 2 + tl.arange(0, 2)[None, :]
    block = tl.arange(0, STEP // BLOCK)
    table = 0
    if SHUFFLE:
        table = tl.inline_asm_elementwise(
            TABLE, "=r,l", [code_ptr.to(tl.int64)], tl.int32, is_pure=True, pack=1
        )
    packed_at = packed_ptr + weight * (NUM_INPUTS // 2) + byte[None, :]
    scale_at = scale_ptr + weight * (NUM_INPUTS // BLOCK) + block[None, :]
    total = tl.zeros((OUTPUTS, STEP // 2), dtype=tl.float32)
    for step in tl.range(0, NUM_INPUTS // STEP, num_stages=STAGES):
        packed = tl.load(packed_at + step * (STEP // 2))
        scale = tl.load(scale_at + step * (STEP // BLOCK))
        even, odd = tl.split(tl.load(x_ptr + step * STEP + pair).to(tl.float32))
        if SHUFFLE:
            first, second = tl.inline_asm_elementwise(
                TO_CODES,
                CODES_REGISTERS,
                [packed, table],
                dtype=(tl.float32, tl.float32),
                is_pure=True,
                pack=4,
            )
        else:
            code = packed.to(tl.int32)
            first = tl.load(code_ptr + (code >> 4))
            second = tl.load(code_ptr + (code & 15))
        wide = tl.broadcast_to(scale[:, :, None], (OUTPUTS, STEP // BLOCK, BLOCK // 2))
        wide = tl.reshape(wide, (OUTPUTS, STEP // 2))
        total += (first * even[None, :] + second * odd[None, :]) * wide
    out = tl.sum(total, axis=1)
    for column in tl.static_range(0, NUM_COLUMNS, BLOCK):
        extra = column + tl.arange(0, BLOCK)
        t = tl.load(t_ptr + extra).to(tl.float32)
        b_at = b_ptr + (before + output)[:, None] * b_stride + extra[None, :]
        b = tl.load(b_at, mask=output_ok[:, None], other=0.0).to(tl.float32)
        out += tl.sum(b * t[None, :], axis=1)
    tl.store(out_ptr + before + output, out.to(out_ptr.dtype.element_ty), mask=output_ok)


def nf4_vector(
    x_1I: torch.Tensor,
    parts: Nf4Parts,
    *,
    update: tuple[torch.Tensor, torch.Tensor] | None = None,
    out_1O: torch.Tensor,
    outputs: int = OUTPUTS,
    step: int = STEP,
    warps: int = WARPS,
    stages: int = STAGES,
) -> torch.Tensor:
    """As ``reference.nf4_linear`` with one row.

    Args:
        x_1I: The row.
        parts: The weights.
        update: See there.
        out_1O: Where the outputs go.
        outputs: Outputs of a program.
        step: Most inputs taken at once.
        warps: Of a program.
        stages: Tiles under way from memory.
    """
    num_inputs = x_1I.shape[1]
    while num_inputs % step:
        step //= 2
    sizes = [weight.shape[0] for weight in parts.weights]
    counts = [-(-size // outputs) for size in sizes]
    last = len(sizes) - 1
    t_1E, b_OE = (x_1I, out_1O) if update is None else update
    launch: Any = _vector_kernel[(sum(counts),)]
    launch(
        x_1I,
        *(parts.weights[min(i, last)].packed_P for i in range(3)),
        *(parts.scales[min(i, last)] for i in range(3)),
        nf4_code(x_1I.device),
        t_1E,
        b_OE,
        out_1O,
        b_OE.stride(0),
        *[*sizes, 0, 0][:3],
        *[*counts, 0][:2],
        NUM_INPUTS=num_inputs,
        NUM_COLUMNS=0 if update is None else t_1E.shape[1],
        OUTPUTS=outputs,
        STEP=step,
        BLOCK=BLOCK,
        STAGES=stages,
        SHUFFLE=x_1I.is_cuda,
        num_warps=warps,
    )
    return out_1O

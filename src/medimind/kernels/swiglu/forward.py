"""SwiGLU in Triton. Moves per value: 2 read, 1 written."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from medimind.kernels.fp8.reference import FP8_MAX, SMALLEST


@triton.jit
def _forward_kernel(
    gate_ptr,
    up_ptr,
    out_ptr,
    codes_ptr,
    scale_ptr,
    gate_stride,
    up_stride,
    out_stride,
    num_columns,
    BLOCK: tl.constexpr,
    CODES: tl.constexpr,
    FP8_MAX: tl.constexpr,
    SMALLEST: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < num_columns
    gate = tl.load(gate_ptr + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
    up = tl.load(up_ptr + row * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    value = (gate * tl.sigmoid(gate) * up).to(out_ptr.dtype.element_ty)
    tl.store(out_ptr + row * out_stride + column, value, mask=inside)
    if CODES:  # the block is the whole row
        wide = value.to(tl.float32)
        scale = tl.maximum(tl.max(tl.abs(wide), axis=0), SMALLEST) / FP8_MAX
        tl.store(scale_ptr + row, scale)
        code = (wide / scale).to(codes_ptr.dtype.element_ty)
        tl.store(codes_ptr + row * num_columns + column, code, mask=inside)


def swiglu_forward(
    gate_TI: torch.Tensor,
    up_TI: torch.Tensor,
    *,
    out: torch.Tensor | None = None,
    codes: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """As ``reference.swiglu_forward``."""
    num_rows, num_columns = gate_TI.shape
    if out is None:
        out = torch.empty(gate_TI.shape, dtype=gate_TI.dtype, device=gate_TI.device)
    whole = triton.next_power_of_2(num_columns)
    block = min(2048, whole) if codes is None else whole
    warps = 8 if block >= 2048 else 4
    if codes is not None:
        warps = min(16, max(4, block // 1024))
    _forward_kernel[(num_rows, triton.cdiv(num_columns, block))](
        gate_TI,
        up_TI,
        out,
        *(codes or (out, out)),
        gate_TI.stride(0),
        up_TI.stride(0),
        out.stride(0),
        num_columns,
        BLOCK=block,
        CODES=codes is not None,
        FP8_MAX=FP8_MAX,  # pyright: ignore[reportArgumentType]
        SMALLEST=SMALLEST,  # pyright: ignore[reportArgumentType]
        num_warps=warps,  # pyright: ignore[reportCallIssue]
    )
    return out

"""NF4 to floating point in one Triton launch, scales of scales included.

One program decodes ``NUM_BLOCKS`` blocks of weights: 4-bit codes and 8-bit scales are looked up in
their tables (which stay in the L1 cache), multiplied in fp32 in bitsandbytes' order (no fused
multiply-add, which would round differently), and rounded once.

Bytes moved per weight: 0.5 + 1/64 read, 2 written (bf16).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

from medimind.kernels.nf4.codes import dynamic_code, nf4_code
from medimind.kernels.nf4.dequantize import dequantize_absmax
from medimind.kernels.nf4.weight import Nf4Weight

FP8_MAX = 448.0
WEIGHTS_PER_PROGRAM = 4096


@triton.jit
def _dequantize_kernel(
    packed_ptr,
    absmax_ptr,
    nested_ptr,
    offset_ptr,
    dynamic_ptr,
    code_ptr,
    row_scale_ptr,
    out_ptr,
    numel,
    num_scales,
    row_blocks,
    row_stride,
    HALF: tl.constexpr,
    NUM_BLOCKS: tl.constexpr,
    DOUBLE: tl.constexpr,
    STRIDED: tl.constexpr,
    ROW_SCALED: tl.constexpr,
) -> None:
    block = tl.program_id(0).to(tl.int64) * NUM_BLOCKS + tl.arange(0, NUM_BLOCKS)
    block_ok = block < num_scales
    if DOUBLE:
        index = tl.load(absmax_ptr + block, mask=block_ok, other=0).to(tl.int32)
        scale = tl.load(dynamic_ptr + index)
        scale = scale * tl.load(nested_ptr + block // 256, mask=block_ok, other=0.0)
        scale = scale + tl.load(offset_ptr)
    else:
        scale = tl.load(absmax_ptr + block, mask=block_ok, other=0.0)
    byte = block[:, None] * HALF + tl.arange(0, HALF)[None, :]
    packed = tl.load(packed_ptr + byte, mask=byte * 2 < numel, other=0).to(tl.int32)
    high = tl.load(code_ptr + (packed >> 4)) * scale[:, None]
    low = tl.load(code_ptr + (packed & 15)) * scale[:, None]
    values = tl.reshape(tl.join(high, low), (NUM_BLOCKS, 2 * HALF))
    position = block[:, None] * (2 * HALF) + tl.arange(0, 2 * HALF)[None, :]
    inside = position < numel
    if STRIDED or ROW_SCALED:
        row = block // row_blocks
        if ROW_SCALED:
            values = values / tl.load(row_scale_ptr + row, mask=block_ok, other=1.0)[:, None]
        if STRIDED:
            shift = row * (row_stride - row_blocks * (2 * HALF))
            position = position + shift[:, None]
    tl.store(out_ptr + position, values.to(out_ptr.dtype.element_ty), mask=inside)


def dequantize_nf4_triton(
    weight: Nf4Weight,
    *,
    dtype: torch.dtype,
    out: torch.Tensor | None = None,
    row_scale_O: torch.Tensor | None = None,
) -> torch.Tensor:
    """The weight in ``dtype``.

    Args:
        weight: What ``quantize_nf4`` made.
        dtype: fp32, bf16, fp16, or fp8 e4m3 together with ``row_scale_O``.
        out: Buffer of the weight's shape. Its rows may be apart (``stride(0) > I``) when ``I`` is
            a multiple of the block size.
        row_scale_O: fp32; each row is divided by its scale (see ``fp8_row_scales``).

    Raises:
        ValueError: When ``out`` or ``row_scale_O`` needs rows of whole blocks and there are none.
    """
    if out is None:
        out = torch.empty(weight.shape, dtype=dtype, device=weight.device)
    columns = weight.shape[-1]
    strided = not out.is_contiguous()
    if (strided or row_scale_O is not None) and columns % weight.block_size:
        raise ValueError(f"rows of {columns} are not whole blocks of {weight.block_size}")
    if out.dim() > 1 and out.stride(-1) != 1:
        raise ValueError("the weights of a row must lie side by side in out")
    num_scales = weight.absmax_S.numel()
    num_blocks = max(1, WEIGHTS_PER_PROGRAM // weight.block_size)
    packed = weight.packed_P
    _dequantize_kernel[(triton.cdiv(num_scales, num_blocks),)](
        packed,
        weight.absmax_S,
        packed if weight.nested_absmax_Z is None else weight.nested_absmax_Z,
        packed if weight.offset is None else weight.offset,
        dynamic_code(weight.device),
        nf4_code(weight.device),
        packed if row_scale_O is None else row_scale_O,
        out,
        weight.numel,
        num_scales,
        max(1, columns // weight.block_size),
        out.stride(0),
        HALF=weight.block_size // 2,
        NUM_BLOCKS=num_blocks,
        DOUBLE=weight.double_quantized,
        STRIDED=strided,
        ROW_SCALED=row_scale_O is not None,
        num_warps=4,  # pyright: ignore[reportCallIssue]
        enable_fp_fusion=False,  # pyright: ignore[reportCallIssue]
    )
    return out


def fp8_row_scales(weight: Nf4Weight) -> torch.Tensor:
    """Scale of each row (fp32) that maps its largest magnitude to the largest e4m3 value.

    No pass over the weights: each block's largest magnitude is its scale, as the code holds 1.0.
    """
    absmax = dequantize_absmax(weight).view(weight.shape[0], -1)
    return absmax.abs().amax(dim=1).clamp(min=1e-12) / FP8_MAX

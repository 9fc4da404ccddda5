"""NF4 back to floating point, bit for bit as bitsandbytes does it.

``O`` outputs, ``I`` inputs, ``S`` blocks, ``Z`` blocks of 256 scales.
"""

from __future__ import annotations

import torch

from medimind.kernels.availability import has_triton
from medimind.kernels.nf4.codes import dynamic_code, nf4_pairs
from medimind.kernels.nf4.weight import NESTED_BLOCK_SIZE, Nf4Weight


def dequantize_nf4(
    weight: Nf4Weight, *, dtype: torch.dtype, out: torch.Tensor | None = None
) -> torch.Tensor:
    """The weight in ``dtype``, rounded once from the fp32 product of code and scale.

    Args:
        weight: What ``quantize_nf4`` made.
        dtype: fp32, bf16 or fp16.
        out: A buffer of ``dtype`` and the weight's shape (or its number of elements, flat) to
            write to; its rows may be apart.
    """
    if out is not None and out.shape != torch.Size(weight.shape):
        out = out.view(weight.shape)
    if weight.device.type == "cuda" and _triton_can(weight, out):
        from medimind.kernels.nf4.forward import dequantize_nf4_triton

        return dequantize_nf4_triton(weight, dtype=dtype, out=out)
    dense = _dequantize_torch(weight, dtype=dtype).view(weight.shape)
    return dense if out is None else out.copy_(dense)


def _triton_can(weight: Nf4Weight, out: torch.Tensor | None) -> bool:
    if out is None or out.is_contiguous():
        return has_triton()
    rows_apart = out.dim() == 2 and out.stride(1) == 1 and out.shape[1] % weight.block_size == 0
    return rows_apart and has_triton()


def dequantize_absmax(weight: Nf4Weight) -> torch.Tensor:
    """The fp32 scale of each block."""
    if weight.nested_absmax_Z is None or weight.offset is None:
        return weight.absmax_S
    code = dynamic_code(weight.device)[weight.absmax_S.int()]
    nested = weight.nested_absmax_Z.repeat_interleave(NESTED_BLOCK_SIZE)[: code.numel()]
    return code * nested + weight.offset


def _dequantize_torch(weight: Nf4Weight, *, dtype: torch.dtype) -> torch.Tensor:
    values = nf4_pairs(weight.device)[weight.packed_P.int()].view(-1)[: weight.numel]
    absmax_S = dequantize_absmax(weight)
    whole = weight.numel - weight.numel % weight.block_size
    blocks_SB = values[:whole].view(-1, weight.block_size)
    blocks_SB.mul_(absmax_S[: blocks_SB.shape[0], None])
    if whole < weight.numel:
        values[whole:].mul_(absmax_S[-1])
    return values.to(dtype)

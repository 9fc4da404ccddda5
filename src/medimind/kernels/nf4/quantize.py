"""Weights to NF4, bit for bit as bitsandbytes does it (Dettmers et al., 2023).

``O`` outputs, ``I`` inputs, ``S`` blocks, ``Z`` blocks of 256 scales.
"""

from __future__ import annotations

import torch

from medimind.kernels.nf4.codes import GRID, dynamic_bounds, grid_code_indices, nf4_bounds
from medimind.kernels.nf4.weight import NESTED_BLOCK_SIZE, Nf4Weight

BLOCK_SIZES = (32, 64, 128, 256, 512, 1024, 2048, 4096)
CHUNK = 1 << 22
"""Weights quantised at once; bounds the fp32 and index scratch to about 50 MiB."""


def quantize_nf4(
    weight_OI: torch.Tensor, *, block_size: int = 64, double_quantization: bool = True
) -> Nf4Weight:
    """The weight in NF4, on its own device.

    Args:
        weight_OI: fp32, bf16 or fp16, any shape; blocks run over it row by row.
        block_size: Weights per scale.
        double_quantization: Hold the scales in 8 bits too (0.5 bits a weight become 0.127).

    Raises:
        ValueError: For another dtype or block size.
    """
    if block_size not in BLOCK_SIZES:
        raise ValueError(f"block_size must be one of {BLOCK_SIZES}, not {block_size}")
    if weight_OI.dtype not in (torch.float32, torch.bfloat16, torch.float16):
        raise ValueError(f"cannot quantise {weight_OI.dtype}")
    flat = weight_OI.detach().reshape(-1)
    parts = [_quantize_flat(part, block_size=block_size) for part in flat.split(CHUNK)]
    packed_P = torch.cat([packed for packed, _ in parts])
    absmax_S = torch.cat([absmax for _, absmax in parts])
    nested_absmax_Z = offset = None
    if double_quantization:
        offset = absmax_S.mean()
        absmax_S, nested_absmax_Z = _quantize_scales(absmax_S - offset)
    return Nf4Weight(
        packed_P=packed_P,
        absmax_S=absmax_S,
        nested_absmax_Z=nested_absmax_Z,
        offset=offset,
        shape=tuple(weight_OI.shape),
        dtype=weight_OI.dtype,
        block_size=block_size,
    )


def _quantize_flat(flat: torch.Tensor, *, block_size: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Packed bytes and fp32 scales of a stretch of whole blocks and at most one cut one."""
    flat = flat.float()
    whole = flat.numel() - flat.numel() % block_size
    blocks_SB = flat[:whole].view(-1, block_size)
    absmax_S = blocks_SB.abs().amax(dim=1)
    scaled = (blocks_SB * (1.0 / absmax_S.clamp(min=1e-38))[:, None]).clamp(-1, 1).view(-1)
    if whole < flat.numel():
        rest = flat[whole:]
        absmax = rest.abs().max().clamp(min=1e-38)
        absmax_S = torch.cat([absmax_S, absmax[None]])
        # bitsandbytes divides here, where it multiplies by the reciprocal above.
        scaled = torch.cat([scaled, (rest / absmax).clamp(-1, 1)])
    if scaled.numel() % 2:
        scaled = torch.nn.functional.pad(scaled, (0, 1))
    index = torch.bucketize(scaled, nf4_bounds(flat.device), out_int32=True).to(torch.uint8)
    return (index[::2] << 4) | index[1::2], absmax_S


def _quantize_scales(scales_S: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Indices of the dynamic code, and the fp32 scale of each 256 of them.

    On CUDA the nearest code; on a CPU the one bitsandbytes takes there, where values are first
    rounded to a grid of 65,536 (which can miss the nearest by one or two codes near 0).
    """
    num_scales = scales_S.numel()
    padding = -num_scales % NESTED_BLOCK_SIZE
    scales_ZB = torch.nn.functional.pad(scales_S, (0, padding)).view(-1, NESTED_BLOCK_SIZE)
    absmax_Z = scales_ZB.abs().amax(dim=1)
    # Where all scales are their mean, this is -1: code 0, as bitsandbytes has it.
    normed_ZB = torch.where(absmax_Z > 0, scales_ZB.T * (1.0 / absmax_Z), -1.0).T
    normed = normed_ZB.reshape(-1)[:num_scales]
    if scales_S.device.type == "cpu":
        position = ((normed + 1) * 32767.5 + 0.5).int().clamp_(0, GRID - 1)
        index = grid_code_indices()[position]
    else:
        index = torch.bucketize(normed, dynamic_bounds(scales_S.device), out_int32=True)
    return index.to(torch.uint8), absmax_Z

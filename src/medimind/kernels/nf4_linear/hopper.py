"""Launches products with weights in NF4 on a Hopper (``hopper_kernel.py``).

Where a weight has too few outputs to fill the card, several programs share a tile of outputs, each
with a stretch of the inputs. Their sums go out as parts, and what comes next in a step adds them up
while it reads them: a launch of its own, or the last program of a tile, takes longer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from triton.experimental.gluon import language as gl
from triton.experimental.gluon.nvidia.hopper import TensorDescriptor

from medimind.kernels.nf4_linear.hopper_kernel import code_table, linear_kernel
from medimind.kernels.nf4_linear.repack import Nf4Units


@dataclass(frozen=True, slots=True)
class HopperTiles:
    """How the work is cut.

    Attributes:
        warps: Of a program; 16 outputs each.
        stages: Steps under way from memory, and the two at work.
        programs: About so many in all.
    """

    warps: int
    stages: int
    programs: int


def hopper_tiles(rows: int, weights: Nf4Units) -> HopperTiles:
    """What was fastest on an H100 among a few; see docs/notes/gpu_generate.md."""
    if rows <= 16 and weights.interleaved:
        return HopperTiles(warps=4, stages=8, programs=1)
    if rows <= 16:
        return HopperTiles(warps=4, stages=5, programs=768 if weights.num_inputs > 8192 else 384)
    if rows <= 64 or weights.interleaved:
        return HopperTiles(warps=8, stages=4, programs=264)
    return HopperTiles(warps=8 if weights.num_outputs > 4096 else 4, stages=5, programs=264)


def units_linear(
    x_BI: torch.Tensor,
    weights: Nf4Units,
    *,
    update: tuple[torch.Tensor, torch.Tensor] | None = None,
    out_BO: torch.Tensor,
    tiles: HopperTiles | None = None,
    pdl: bool = False,
) -> torch.Tensor | None:
    """As ``reference.nf4_linear``, in bf16, or the sums of stretches of the inputs ``(S, B, O)``.

    Where there are stretches, nothing is written to ``out_BO``: the caller adds them up in what it
    does next. Weights that are interleaved (``Nf4Units.interleaved``) give ``silu(gate) up``.
    Rows of all matrices start at multiples of 16 bytes.
    """
    num_rows, num_inputs = x_BI.shape
    tiles = tiles or hopper_tiles(num_rows, weights)
    # Next launches that come early and find room slow this one down (1.4 ms a step against 1.9).
    pdl = pdl and not (weights.interleaved and num_rows <= 16)
    rows = min(128, max(16, 1 << (num_rows - 1).bit_length()))
    layout: Any = gl.NVMMASharedLayout.get_default_for([rows, 64], gl.bfloat16)
    t_BE, b_OE = (x_BI, out_BO) if update is None else update
    num_tiles = -(-weights.num_outputs // (16 * tiles.warps))
    row_tiles = -(-num_rows // rows)
    splits, mode, out = 1, "swiglu", out_BO
    if not weights.interleaved:
        splits = max(1, min(tiles.programs // (num_tiles * row_tiles), num_inputs // 256))
        mode = "parts" if splits > 1 else "out"
    if splits > 1:
        shape = (splits, num_rows, weights.num_outputs)
        out = torch.empty(shape, dtype=torch.float32, device=x_BI.device)
    kernel: Any = linear_kernel
    launch = kernel[(num_tiles, splits, row_tiles)]
    launch(
        TensorDescriptor.from_tensor(x_BI, [rows, 64], layout),
        weights.codes_UKP,
        weights.scales_KO.view(torch.int32),
        code_table(x_BI.device),
        TensorDescriptor.from_tensor(t_BE, [rows, 64], layout),
        b_OE,
        out,
        b_OE.stride(0),
        out_BO.stride(0),
        num_rows,
        weights.num_outputs,
        splits,
        INPUTS=num_inputs,
        COLUMNS=0 if update is None else t_BE.shape[1],
        MODE=mode,
        PDL=pdl,
        ROWS=rows,
        STAGES=tiles.stages,
        UNITS=tiles.warps,
        num_warps=tiles.warps,
        maxnreg=128,
        launch_pdl=pdl,
    )
    return out if splits > 1 else None

"""NF4 codes in the order in which Hopper's tensor cores take their left factor.

A unit is 16 outputs x 64 inputs: 512 bytes of codes, 16 for each lane of a warp, in the order of
the registers of ``wgmma`` (PTX ISA, "register fragments for wgmma.mma_async.m64nNk16"):

```
lane    g = lane // 4, t = lane % 4
word    2 s + h  of four; a word holds 8 codes, code n in the bits 4 n .. 4 n + 3
code    4 half + 2 r + k
        is that of output 8 r + g and input 32 half + 16 s + 8 h + 2 t + k of the unit
```

So a lane loads 16 bytes and has, for two times two instructions, what they multiply.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from medimind.kernels.nf4 import Nf4Weight
from medimind.kernels.nf4.codes import nf4_code
from medimind.kernels.nf4.dequantize import dequantize_absmax
from medimind.kernels.swiglu.reference import swiglu_forward

UNIT_OUTPUTS, UNIT_INPUTS = 16, 64


@dataclass(frozen=True, slots=True)
class Nf4Units:
    """Weights that share their inputs, as units.

    Attributes:
        codes_UKP: uint8 ``(O / 16, I / 64, 512)``.
        scales_KO: bf16 ``(I / 64, O)``, the scale of each block.
        interleaved: Each unit is 8 outputs of a first weight above the same 8 of a second (gate
            and up), so that what belongs together is in one lane.
    """

    codes_UKP: torch.Tensor
    scales_KO: torch.Tensor
    interleaved: bool = False

    @property
    def num_outputs(self) -> int:
        """O."""
        return self.scales_KO.shape[1]

    @property
    def num_inputs(self) -> int:
        """I."""
        return self.scales_KO.shape[0] * UNIT_INPUTS


def can_repack(weights: Sequence[Nf4Weight]) -> bool:
    """Whether products take these as units: whole ones, in pairs; blocks of 64; one width."""
    return all(
        w.shape[0] % UNIT_OUTPUTS == 0
        and w.shape[1] % (2 * UNIT_INPUTS) == 0
        and w.block_size == UNIT_INPUTS
        and w.shape[1] == weights[0].shape[1]
        for w in weights
    )


def repack(weights: Sequence[Nf4Weight], *, interleaved: bool = False) -> Nf4Units:
    """The weights, one below the other or two of a size interleaved, as units."""
    codes_OI = torch.cat([_codes(weight) for weight in weights])
    scales_OK = torch.cat([_scales(weight) for weight in weights])
    if interleaved:
        codes_OI, scales_OK = (_interleave(matrix) for matrix in (codes_OI, scales_OK))
    outputs, inputs = codes_OI.shape
    # r, g of the outputs; half, s, h, t, k of the inputs
    parts = codes_OI.view(outputs // 16, 2, 8, inputs // 64, 2, 2, 2, 4, 2)
    ordered = parts.permute(0, 3, 2, 7, 5, 6, 4, 1, 8).reshape(outputs // 16, inputs // 64, -1)
    packed_UKP = ordered[..., 0::2] | (ordered[..., 1::2] << 4)
    return Nf4Units(packed_UKP, scales_OK.to(torch.bfloat16).t().contiguous(), interleaved)


def _codes(weight: Nf4Weight) -> torch.Tensor:
    packed_P = weight.packed_P.view(-1)
    return torch.stack((packed_P >> 4, packed_P & 15), dim=-1).view(weight.shape)


def _scales(weight: Nf4Weight) -> torch.Tensor:
    return dequantize_absmax(weight).view(weight.shape[0], -1)


def _interleave(matrix_OX: torch.Tensor) -> torch.Tensor:
    """Eight rows of the first half, the same eight of the second, and so on."""
    outputs, width = matrix_OX.shape
    return matrix_OX.view(2, outputs // 16, 8, width).transpose(0, 1).reshape(outputs, width)


def unpack(units: Nf4Units) -> torch.Tensor:
    """The weights ``(O, I)`` that products over units see, bf16: each factor is rounded to it."""
    low_high = torch.stack((units.codes_UKP & 15, units.codes_UKP >> 4), dim=-1)
    num_units, num_blocks = units.codes_UKP.shape[:2]
    # g, t, s, h, half, r, k of each unit
    parts = low_high.reshape(num_units, num_blocks, 8, 4, 2, 2, 2, 2, 2)
    codes_OI = parts.permute(0, 7, 2, 1, 6, 4, 5, 3, 8).reshape(units.num_outputs, units.num_inputs)
    scales_OI = units.scales_KO.t().repeat_interleave(UNIT_INPUTS, dim=1)
    weight_OI = nf4_code(codes_OI.device).to(torch.bfloat16)[codes_OI.long()] * scales_OI
    if not units.interleaved:
        return weight_OI
    blocks = weight_OI.view(num_units, 2, 8, -1).transpose(0, 1)
    return blocks.reshape(units.num_outputs, units.num_inputs)


def units_linear(
    x_BI: torch.Tensor,
    weights: Nf4Units,
    *,
    update: tuple[torch.Tensor, torch.Tensor] | None = None,
    out_BO: torch.Tensor,
    pdl: bool = False,
) -> torch.Tensor | None:
    """The product, written to ``out_BO``; or the sums of stretches of the inputs ``(S, B, O)``.

    Where there are stretches, nothing is written to ``out_BO``: the caller adds them up in what it
    does next. Interleaved weights give ``silu(gate) up``, never in stretches.

    Args:
        x_BI: Rows may be apart.
        weights: The weights.
        update: ``t_BE`` and ``b_OE``, E a multiple of 64, added to the product.
        out_BO: Its rows may be apart.
        pdl: Let the launch begin while the one before ends (on a card only).
    """
    weight_OI = unpack(weights).float()
    total_BO = x_BI.float() @ weight_OI.t()
    if update is not None:
        total_BO += update[0].float() @ update[1].float().t()
    if weights.interleaved:
        gate_BI, up_BI = total_BO.to(x_BI.dtype).chunk(2, dim=1)
        swiglu_forward(gate_BI, up_BI, out=out_BO)
        return None
    if weights.num_inputs == UNIT_INPUTS:
        out_BO.copy_(total_BO)
        return None
    first_BO = x_BI[:, :UNIT_INPUTS].float() @ weight_OI[:, :UNIT_INPUTS].t()
    return torch.stack((first_BO, total_BO - first_BO))

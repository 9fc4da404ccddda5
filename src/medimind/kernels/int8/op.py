"""Products with a table that is dense or in 8 bits; it is never dense as a whole.

A stretch of rows is dequantised into the factors' dtype, multiplied, and the next one takes its
place: for the 8B's head 64 MiB instead of 1 GiB, at the cost of reading and writing each value once
more. ``N`` rows of hidden states, ``V`` vocabulary, ``D`` model width.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from medimind.kernels.int8.weight import Int8Weight
from medimind.kernels.lora_linear.backward import addmm_fp32_

Table = torch.Tensor | Int8Weight
STRETCH = 1 << 25
"""Values dequantised at once."""
_LARGEST = 127.0


def quantize_int8(weight_VD: torch.Tensor) -> Int8Weight:
    """The table with each row rounded to 255 steps around 0, on its own device."""
    values_VD = torch.empty(weight_VD.shape, dtype=torch.int8, device=weight_VD.device)
    scale_V = torch.empty(len(weight_VD), dtype=torch.float32, device=weight_VD.device)
    for rows in _stretches(weight_VD.shape):
        part_VD = weight_VD[rows].float()
        torch.div(part_VD.abs().amax(dim=1), _LARGEST, out=scale_V[rows])
        scaled_VD = part_VD / scale_V[rows].clamp(min=1e-38).unsqueeze(1)
        values_VD[rows] = scaled_VD.round_().to(torch.int8)
    return Int8Weight(values_VD, scale_V, weight_VD.dtype)


def dequantize_int8(
    weight: Int8Weight, *, dtype: torch.dtype, rows: slice | None = None
) -> torch.Tensor:
    """The table, or some of its rows, in ``dtype``."""
    rows = rows or slice(0, weight.shape[0])
    values_VD, scale_V = weight.values_VD[rows], weight.scale_V[rows]
    out_VD = torch.empty(values_VD.shape, dtype=dtype, device=values_VD.device)
    return torch.mul(values_VD, scale_V.unsqueeze(1), out=out_VD)


def table_product(
    hidden_ND: torch.Tensor, table: Table, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """``hidden table^T``: the logits ``(N, V)``."""
    if isinstance(table, torch.Tensor):
        return torch.mm(hidden_ND, table.t(), out=out)
    if out is None:
        shape = (len(hidden_ND), table.shape[0])
        out = torch.empty(shape, dtype=hidden_ND.dtype, device=hidden_ND.device)
    for rows in _stretches(table.shape):
        part_VD = dequantize_int8(table, dtype=hidden_ND.dtype, rows=rows)
        torch.mm(hidden_ND, part_VD.t(), out=out[:, rows])
    return out


def table_gradient(
    grad_NV: torch.Tensor, table: Table, *, out: torch.Tensor | None = None
) -> torch.Tensor:
    """``grad table``: the gradient of the hidden states ``(N, D)``; fp32 sums between stretches."""
    if isinstance(table, torch.Tensor):
        return torch.mm(grad_NV, table, out=out)
    shape = (len(grad_NV), table.shape[1])
    total_ND = torch.zeros(shape, dtype=torch.float32, device=grad_NV.device)
    for rows in _stretches(table.shape):
        part_VD = dequantize_int8(table, dtype=grad_NV.dtype, rows=rows)
        addmm_fp32_(total_ND, grad_NV[:, rows], part_VD)
    return total_ND.to(grad_NV.dtype) if out is None else out.copy_(total_ND)


def _stretches(shape: torch.Size) -> Iterator[slice]:
    step = max(1, STRETCH // max(shape[1], 1))
    for start in range(0, shape[0], step):
        yield slice(start, min(start + step, shape[0]))

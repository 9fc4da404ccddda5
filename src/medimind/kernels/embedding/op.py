"""Rows of a table, on the card or in pinned host memory.

``T`` tokens, ``V`` rows, ``D`` width.
"""

from __future__ import annotations

import torch

from medimind.kernels.availability import has_triton
from medimind.kernels.int8 import Int8Weight, Table


def gather_rows(table: Table, index_T: torch.Tensor, *, out: torch.Tensor) -> None:
    """``out[t] = table[index[t]]``, dequantised where the table is in 8 bits.

    A pinned host table is read over the bus by the card itself: only the rows asked for travel.

    Args:
        table: On ``out``'s device, or its values in host memory.
        index_T: int64, on ``out``'s device.
        out: ``(T, D)``.
    """
    if isinstance(table, Int8Weight):
        values_TD = torch.empty(out.shape, dtype=torch.int8, device=out.device)
        _gather(table.values_VD, index_T, out=values_TD)
        scale_T = table.scale_V.index_select(0, index_T)
        torch.mul(values_TD, scale_T.unsqueeze(1), out=out)
    else:
        _gather(table, index_T, out=out)


def _gather(table_VD: torch.Tensor, index_T: torch.Tensor, *, out: torch.Tensor) -> None:
    if table_VD.device == out.device:
        torch.index_select(table_VD, 0, index_T, out=out)
    elif table_VD.is_pinned() and has_triton():
        from medimind.kernels.embedding.forward import gather_rows_triton

        gather_rows_triton(table_VD, index_T, out=out)
    else:
        out.copy_(table_VD.index_select(0, index_T.cpu()))

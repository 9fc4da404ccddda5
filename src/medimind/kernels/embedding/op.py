"""Rows of a table, on the card or in pinned host memory.

``T`` tokens, ``V`` rows, ``D`` width.
"""

from __future__ import annotations

import torch

from medimind.kernels.availability import has_triton


def gather_rows(table_VD: torch.Tensor, index_T: torch.Tensor, *, out: torch.Tensor) -> None:
    """``out[t] = table[index[t]]``.

    A pinned host table is read over the bus by the card itself: only the rows asked for travel.

    Args:
        table_VD: On ``out``'s device, or in host memory.
        index_T: int64, on ``out``'s device.
        out: ``(T, D)``.
    """
    if table_VD.device == out.device:
        torch.index_select(table_VD, 0, index_T, out=out)
    elif table_VD.is_pinned() and has_triton():
        from medimind.kernels.embedding.forward import gather_rows_triton

        gather_rows_triton(table_VD, index_T, out=out)
    else:
        out.copy_(table_VD.index_select(0, index_T.cpu()))

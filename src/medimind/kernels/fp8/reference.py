"""Row-scaled e4m3 products in plain torch.

``y = s_x s_w (x8 w8^T) + t b^T``: rows of x (tokens) and of w (outputs) each have their own scale,
the largest magnitude of a row becomes e4m3's largest value (Micikevicius et al., 2022,
arXiv 2209.05433). Sums are fp32; the low-rank update is added in the same sum, in 16 bits.

``T`` tokens, ``I`` inputs, ``O`` outputs, ``E`` columns of the update.
"""

from __future__ import annotations

import torch

FP8_MAX = 448.0
"""Largest value of e4m3 (no infinities, one NaN)."""
SMALLEST = 1e-12
"""Least magnitude that a row is scaled by, so that rows of zeros stay zeros."""


def quantize_rows(
    x_TI: torch.Tensor, *, out_TI: torch.Tensor, scale_T: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """e4m3 values and fp32 scales with ``x = scale * values``, up to rounding.

    Args:
        x_TI: Rows may be apart.
        out_TI: ``float8_e4m3fn``, contiguous.
        scale_T: fp32.
    """
    wide = x_TI.float()
    scale_T.copy_(wide.abs().amax(dim=1).clamp(min=SMALLEST) / FP8_MAX)
    out_TI.copy_((wide / scale_T[:, None]).to(torch.float8_e4m3fn))
    return out_TI, scale_T


def fp8_linear(
    x8_TI: torch.Tensor,
    x_scale_T: torch.Tensor,
    w8_OI: torch.Tensor,
    w_scale_O: torch.Tensor,
    *,
    update: tuple[torch.Tensor, torch.Tensor] | None = None,
    out_TO: torch.Tensor,
) -> torch.Tensor:
    """``x w^T``, plus ``t b^T`` where an update ``(t_TE, b_OE)`` is given.

    Args:
        x8_TI: e4m3.
        x_scale_T: Its scales.
        w8_OI: e4m3.
        w_scale_O: Its scales.
        update: Both in the dtype of the output.
        out_TO: Where it goes; rows may be apart.
    """
    total = x8_TI.float() @ w8_OI.float().t()
    total = total * x_scale_T[:, None] * w_scale_O
    if update is not None:
        total = total + update[0].float() @ update[1].float().t()
    return out_TO.copy_(total)

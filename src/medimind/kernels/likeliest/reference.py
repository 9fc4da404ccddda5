"""The likeliest token in plain torch. ``B`` rows, ``V`` vocabulary."""

from __future__ import annotations

import torch


def likeliest(logits_BV: torch.Tensor, *, out_B: torch.Tensor) -> None:
    """The index of each row's highest logit; -1 where one is NaN or the highest is infinite.

    Args:
        logits_BV: Any float dtype.
        out_B: int64.
    """
    highest_B, likeliest_B = logits_BV.max(dim=-1)
    out_B.copy_(torch.where(torch.isfinite(highest_B), likeliest_B, -1))

"""LoRA linear in plain torch (Hu et al., 2021): ``x W^T + bias + s (x A^T) B^T``.

``T`` tokens, ``I`` inputs, ``O`` outputs, ``R`` rank.
"""

from __future__ import annotations

import torch


def lora_linear_reference(
    x_TI: torch.Tensor,
    weight_OI: torch.Tensor,
    bias_O: torch.Tensor | None,
    a_RI: torch.Tensor,
    b_OR: torch.Tensor,
    *,
    scaling: float,
) -> torch.Tensor:
    """The base output plus the scaled low-rank update, differentiable by autograd."""
    base = torch.nn.functional.linear(x_TI, weight_OI, bias_O)
    return base + scaling * ((x_TI @ a_RI.t()) @ b_OR.t())

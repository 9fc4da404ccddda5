"""The gradient of turning is turning back."""

from __future__ import annotations

import torch

from medimind.kernels.rotary.forward import rotate


def rotate_backward(
    grad_THK: torch.Tensor,
    cos_TK: torch.Tensor,
    sin_TK: torch.Tensor,
    *,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Gradient of what was turned; ``out`` may be ``grad_THK`` itself."""
    return rotate(grad_THK, cos_TK, sin_TK, inverse=True, out=out)

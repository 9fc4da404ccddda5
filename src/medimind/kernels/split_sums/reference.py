"""What is left of a product whose inputs were cut into stretches: their sums, and the norm after.

``S`` stretches, ``B`` rows, ``D`` model width.
"""

from __future__ import annotations

import torch

from medimind.kernels.rms_norm import reference as rms_norm


def sum_norm(
    parts_SBD: torch.Tensor,
    weight_D: torch.Tensor,
    *,
    eps: float,
    residual_BD: torch.Tensor,
    normed_out: torch.Tensor,
    pdl: bool = False,
) -> None:
    """Adds the product to the residual stream, in place, and norms the stream.

    Args:
        parts_SBD: fp32; their sum is rounded to the dtype of the stream first.
        weight_D: Gain.
        eps: Of the norm.
        residual_BD: The stream.
        normed_out: Takes the normed stream; its rows may be apart.
        pdl: Let the launch begin while the one before ends (Triton only).
    """
    total_BD = parts_SBD[0].clone()
    for part_BD in parts_SBD[1:]:
        total_BD += part_BD
    rms_norm.rms_norm_forward(
        total_BD.to(residual_BD.dtype),
        weight_D,
        eps=eps,
        residual_TD=residual_BD.clone(),
        normed_out=normed_out,
        sum_out=residual_BD,
    )

"""RMSNorm in plain torch (Zhang & Sennrich, 2019), with the residual add before it.

``T`` tokens, ``D`` width. The weight is frozen: it gets no gradient.
"""

from __future__ import annotations

import torch

from medimind.kernels.fp8.reference import quantize_rows


def rms_norm_forward(
    x_TD: torch.Tensor,
    weight_D: torch.Tensor,
    *,
    eps: float,
    residual_TD: torch.Tensor | None = None,
    normed_out: torch.Tensor | None = None,
    sum_out: torch.Tensor | None = None,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """``(normed_TD, sum_TD, rstd_T)`` of ``sum = x + residual``; rstd is fp32.

    Args:
        x_TD: Input; rows may be apart.
        weight_D: Gain.
        eps: Added to the mean square.
        residual_TD: Added to ``x_TD`` first; without it the sum is ``x_TD`` itself.
        normed_out: Where the normed rows go.
        sum_out: Where the sum goes.
    """
    sum_TD = x_TD if residual_TD is None else x_TD + residual_TD
    wide = sum_TD.to(torch.promote_types(sum_TD.dtype, torch.float32))
    rstd_T = torch.rsqrt(wide.square().mean(-1) + eps)
    normed_TD = (wide * rstd_T[:, None]).to(x_TD.dtype) * weight_D.to(x_TD.dtype)
    if normed_out is not None:
        normed_TD = normed_out.copy_(normed_TD)
    if sum_out is not None and residual_TD is not None:
        sum_TD = sum_out.copy_(sum_TD)
    return normed_TD, sum_TD, rstd_T


def rms_norm_backward(
    grad_normed_TD: torch.Tensor,
    sum_TD: torch.Tensor,
    weight_D: torch.Tensor,
    rstd_T: torch.Tensor,
    *,
    grad_sum_TD: torch.Tensor | None = None,
    out: torch.Tensor | None = None,
    codes: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Gradient of ``sum_TD``: through the norm, plus what arrives beside it.

    With ``n = sum * rstd`` and ``g = grad_normed * weight``: ``rstd * (g - n * mean(g * n))``.

    Args:
        grad_normed_TD: Gradient of the normed rows.
        sum_TD: What was normed.
        weight_D: Gain.
        rstd_T: Reciprocal root mean squares from the forward pass.
        grad_sum_TD: Gradient that reaches the sum on the residual path.
        out: Where the result goes; may be ``grad_sum_TD``.
        codes: Where it goes in e4m3 too, ``(T, D)``, and the scales of its rows.
    """
    wide = rstd_T.dtype
    n_TD = sum_TD.to(wide) * rstd_T[:, None]
    g_TD = grad_normed_TD.to(wide) * weight_D.to(wide)
    grad_TD = rstd_T[:, None] * (g_TD - n_TD * (g_TD * n_TD).mean(-1, keepdim=True))
    if grad_sum_TD is not None:
        grad_TD = grad_TD + grad_sum_TD.to(wide)
    grad_TD = grad_TD.to(sum_TD.dtype)
    if codes is not None:
        quantize_rows(grad_TD, out_TI=codes[0], scale_T=codes[1])
    return grad_TD if out is None else out.copy_(grad_TD)

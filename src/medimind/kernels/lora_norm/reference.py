"""RMSNorm with the update of the adapter before it, in plain torch.

Between a product that ends at the residual stream (o, down) and one that starts from it (q/k/v,
gate/up) lies a norm, which reads whole rows anyway. So it adds the update of the adapter before it;
``t`` comes out of the base product, whose weight has A below it:

```
product (T, D + E) = x | W |^T = | x W^T | t = x A^T | 0 |
                       | A |
                       | 0 |
sum    = round(x W^T + s t B^T + bias) + residual
normed = norm(sum)
```

The projection's output is rounded to the compute dtype before the residual is added, as where each
step writes its result. Product and residual are both rounded numbers, so in 16 bits their sum often
lies just between two others; an update far too small to count would then decide each time, and
move the sum by half a step: an adapter fresh from 0 acted twenty times as strong as it was.

``T`` tokens, ``D`` width, ``R`` rank, ``E`` rows for A and padding.
"""

from __future__ import annotations

import torch

from medimind.kernels.fp8.reference import quantize_rows
from medimind.kernels.rms_norm.reference import rms_norm_forward


def lora_norm_forward(
    product_TD: torch.Tensor,
    weight_D: torch.Tensor,
    *,
    eps: float,
    residual_TD: torch.Tensor,
    normed_out: torch.Tensor,
    sum_out: torch.Tensor,
    t_TR: torch.Tensor | None = None,
    b_DR: torch.Tensor | None = None,
    scaling: float = 1.0,
    bias_D: torch.Tensor | None = None,
    t_out: torch.Tensor | None = None,
    codes: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """Writes the sum and the normed rows; returns the fp32 reciprocal root mean squares.

    Args:
        product_TD: The base product; rows may be apart.
        weight_D: Gain.
        eps: Added to the mean square.
        residual_TD: Added.
        normed_out: Where the normed rows go.
        sum_out: Where the sum goes; may be ``residual_TD``.
        t_TR: ``x A^T``; ``None`` without an adapter.
        b_DR: Its B.
        scaling: Its factor.
        bias_D: Added.
        t_out: Where a copy of ``t_TR`` goes.
        codes: Where the normed rows go in e4m3 too, ``(T, D)``, and their scales.
    """
    wide = torch.promote_types(product_TD.dtype, torch.float32)
    output_TD = product_TD.to(wide)
    if bias_D is not None:
        output_TD = output_TD + bias_D.to(wide)
    if t_TR is not None and b_DR is not None:
        output_TD = output_TD + scaling * (t_TR.to(wide) @ b_DR.to(wide).t())
        if t_out is not None:
            t_out.copy_(t_TR)
    sum_out.copy_(output_TD.to(product_TD.dtype).to(wide) + residual_TD.to(wide))
    _, _, rstd_T = rms_norm_forward(sum_out, weight_D, eps=eps, normed_out=normed_out)
    if codes is not None:
        quantize_rows(normed_out, out_TI=codes[0], scale_T=codes[1])
    return rstd_T

"""Rotary position embedding in plain torch (Su et al., 2021), halves rotated as in Llama.

``T`` tokens, ``H`` heads of any kind side by side, ``K`` head width.

```
out[:K/2] = x[:K/2] * cos - x[K/2:] * sin
out[K/2:] = x[K/2:] * cos + x[:K/2] * sin        backward: the same with -sin
```
"""

from __future__ import annotations

import torch


def rotate(
    x_THK: torch.Tensor,
    cos_TK: torch.Tensor,
    sin_TK: torch.Tensor,
    *,
    inverse: bool = False,
    out: torch.Tensor | None = None,
) -> torch.Tensor:
    """Each head turned by its token's angles.

    Args:
        x_THK: Any strides, the last dimension dense.
        cos_TK: Cosines; the second half repeats the first.
        sin_TK: Sines, likewise.
        inverse: Turn back: the gradient of turning.
        out: Where the result goes; ``x_THK`` itself turns in place.
    """
    wide = torch.promote_types(x_THK.dtype, torch.float32)
    half = x_THK.shape[-1] // 2
    first, second = x_THK[..., :half].to(wide), x_THK[..., half:].to(wide)
    cos, sin = cos_TK[:, None, :half].to(wide), sin_TK[:, None, :half].to(wide)
    if inverse:
        sin = -sin
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    turned = turned.to(x_THK.dtype)
    return turned if out is None else out.copy_(turned)


def rotate_back(
    grad_q_THK: torch.Tensor,
    grad_k_TGK: torch.Tensor,
    grad_v_TGK: torch.Tensor,
    cos_TK: torch.Tensor,
    sin_TK: torch.Tensor,
    *,
    out_TQ: torch.Tensor,
) -> None:
    """Gradients of q and k turned back, and that of v, side by side as the projection has them.

    Args:
        grad_q_THK: Any strides, the last dimension dense; so for all gradients.
        grad_k_TGK: Of the keys.
        grad_v_TGK: Of the values.
        cos_TK: As in ``rotate``.
        sin_TK: As in ``rotate``.
        out_TQ: ``(T, (H + 2 G) K)``, rows dense.
    """
    turned = [rotate(x, cos_TK, sin_TK, inverse=True) for x in (grad_q_THK, grad_k_TGK)]
    out_TQ.copy_(torch.cat([*turned, grad_v_TGK], dim=1).flatten(1))

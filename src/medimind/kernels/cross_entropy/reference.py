"""Cross-entropy of rows of logits in plain torch, and its gradient in their place.

``N`` rows, ``V`` vocabulary.
"""

from __future__ import annotations

import torch


def cross_entropy_(
    logits_NV: torch.Tensor, targets_N: torch.Tensor, *, losses_out: torch.Tensor
) -> None:
    """Losses of the rows, and ``softmax - onehot`` over the logits themselves.

    A row whose target is negative has loss 0 and gradient 0.

    Args:
        logits_NV: Overwritten by the gradient of the sum of the losses.
        targets_N: int64.
        losses_out: fp32, ``N``.
    """
    wide = logits_NV.to(torch.promote_types(logits_NV.dtype, torch.float32))
    counts_N = targets_N >= 0
    lse_N = torch.logsumexp(wide, dim=-1)
    index_N1 = targets_N.clamp(min=0)[:, None]
    losses_N = lse_N - wide.gather(1, index_N1)[:, 0]
    losses_out.copy_(torch.where(counts_N, losses_N, 0.0))
    grad_NV = torch.exp(wide - lse_N[:, None])
    grad_NV.scatter_add_(1, index_N1, torch.full_like(grad_NV[:, :1], -1.0))
    logits_NV.copy_(torch.where(counts_N[:, None], grad_NV, 0.0))

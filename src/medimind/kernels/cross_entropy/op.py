"""Linear cross-entropy: public function and the plain torch path.

The gradient of the logits, ``softmax - onehot``, is known as soon as a chunk's logits are; so each
chunk makes its share of the hidden gradient in the forward pass, and nothing is computed twice.
The head is frozen and gets no gradient. Shapes: ``N`` targets, ``D`` model width, ``V`` vocabulary,
``C`` rows of a chunk.
"""

from __future__ import annotations

from typing import Any

import torch

from medimind.kernels.cross_entropy.blocked import blocked_cross_entropy
from medimind.kernels.int8 import Table, table_gradient, table_product

CHUNK_SIZE = 256


def _chunk_losses(
    hidden_CD: torch.Tensor, head: Table, targets_C: torch.Tensor, *, with_gradient: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Losses of a chunk, and its logits or (in their place) the logits' gradient."""
    logits_CV = table_product(hidden_CD, head).float()
    target_C1 = targets_C.unsqueeze(1)
    picked_C = logits_CV.gather(1, target_C1).squeeze(1)
    if not with_gradient:
        return logits_CV.logsumexp(dim=1) - picked_C, logits_CV
    peak_C1 = logits_CV.amax(dim=1, keepdim=True)
    logits_CV.sub_(peak_C1).exp_()
    sum_C1 = logits_CV.sum(dim=1, keepdim=True)
    losses_C = (sum_C1.log() + peak_C1).squeeze(1) - picked_C
    logits_CV.div_(sum_C1)
    logits_CV.scatter_add_(1, target_C1, torch.full_like(picked_C, -1.0).unsqueeze(1))
    return losses_C, logits_CV


def cross_entropy_with_gradient(
    hidden_ND: torch.Tensor,
    head: Table,
    targets_N: torch.Tensor,
    *,
    chunk_size: int = CHUNK_SIZE,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The loss sum (float32 scalar) and its gradient ``(N, D)`` in the dtype of ``hidden_ND``."""
    on_cpu = hidden_ND.device.type == "cpu" and hidden_ND.dtype == torch.float32
    if on_cpu and isinstance(head, torch.Tensor):
        losses_N, grad_ND = blocked_cross_entropy(hidden_ND, head, targets_N)
        return losses_N.sum(), grad_ND
    grad_ND = torch.empty_like(hidden_ND)
    loss = torch.zeros((), dtype=torch.float32, device=hidden_ND.device)
    for start in range(0, hidden_ND.shape[0], chunk_size):
        rows = slice(start, start + chunk_size)
        losses_C, grad_CV = _chunk_losses(
            hidden_ND[rows], head, targets_N[rows], with_gradient=True
        )
        loss += losses_C.sum()
        table_gradient(grad_CV.to(head.dtype), head, out=grad_ND[rows])
    return loss, grad_ND


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_ND: torch.Tensor,
        head: Table,
        targets_N: torch.Tensor,
        chunk_size: int,
    ) -> torch.Tensor:
        if not ctx.needs_input_grad[0]:
            return linear_token_losses(hidden_ND, head, targets_N, chunk_size=chunk_size).sum()
        loss, grad_ND = cross_entropy_with_gradient(
            hidden_ND, head, targets_N, chunk_size=chunk_size
        )
        ctx.save_for_backward(grad_ND)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (grad_ND,) = ctx.saved_tensors
        return grad_ND * grads[0].to(grad_ND.dtype), None, None, None


def linear_cross_entropy(
    hidden_ND: torch.Tensor,
    head: Table,
    targets_N: torch.Tensor,
    *,
    chunk_size: int = CHUNK_SIZE,
) -> torch.Tensor:
    """Sum over the targets of ``logsumexp(h W^T) - (h W^T)[target]``.

    Args:
        hidden_ND: Hidden states of the positions that predict a target.
        head: Frozen; dense or in 8 bits.
        targets_N: int64 token ids; every one counts.
        chunk_size: Rows whose logits exist at once.

    Returns:
        float32 scalar.
    """
    loss: Any = _LinearCrossEntropy.apply(hidden_ND, head, targets_N, chunk_size)
    return loss


@torch.no_grad()
def linear_token_losses(
    hidden_ND: torch.Tensor,
    head: Table,
    targets_N: torch.Tensor,
    *,
    chunk_size: int = CHUNK_SIZE,
) -> torch.Tensor:
    """Negative log-likelihood of each target, float32 ``(N,)``; without a gradient."""
    losses_N = torch.empty(hidden_ND.shape[0], dtype=torch.float32, device=hidden_ND.device)
    for start in range(0, hidden_ND.shape[0], chunk_size):
        rows = slice(start, start + chunk_size)
        losses_N[rows], _ = _chunk_losses(
            hidden_ND[rows], head, targets_N[rows], with_gradient=False
        )
    return losses_N

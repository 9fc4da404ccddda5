"""Projections of one input as one product, with their adapters: forward and backward by hand.

q, k and v share an input, so do gate and up. Their weights lie one below the other, and so do
their ``A`` matrices; each ``B`` acts on its own rows:

```
        D                    R R R                     columns of low: one block per adapter
  q | W_q |    low = s x [A_q; A_k; A_v]^T       y_q += low_q B_q^T
  k | W_k |                                      y_k += low_k B_k^T
  v | W_v |                                      y_v += low_v B_v^T
```

Shapes: ``T`` tokens, ``D`` inputs, ``O`` outputs of all parts, ``R`` ranks of all parts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from medimind.models.projection import Projection


@dataclass(frozen=True, slots=True)
class AdapterPart:
    """One adapter within a joint projection.

    Attributes:
        outputs: Its columns of the joint output.
        ranks: Its columns of the joint low-rank input.
        b_OR: Its ``B``.
    """

    outputs: slice
    ranks: slice
    b_OR: torch.Tensor


@dataclass(frozen=True, slots=True)
class JointLinear:
    """One to three projections of the same input.

    Attributes:
        weight_OD: Base weights, one below the other; frozen.
        bias_O: Base biases.
        a_RD: All ``A``, one below the other; ``None`` without adapters.
        parts: The adapters.
        scaling: Factor of the updates.
    """

    weight_OD: torch.Tensor
    bias_O: torch.Tensor | None
    a_RD: torch.Tensor | None
    parts: tuple[AdapterPart, ...]
    scaling: float

    @property
    def num_ranks(self) -> int:
        """Ranks of all adapters together."""
        return 0 if self.a_RD is None else self.a_RD.shape[0]


def joint_linear(
    projections: Sequence[Projection], weight_OD: torch.Tensor, bias_O: torch.Tensor | None
) -> JointLinear:
    """The joint view of projections whose weights lie in ``weight_OD`` in this order."""
    parts, matrices, outputs, ranks, scaling = [], [], 0, 0, 0.0
    for projection in projections:
        end = outputs + projection.out_features
        if projection.has_adapter:
            a_RD, b_OR = projection.adapter(dtype=weight_OD.dtype)
            rank = a_RD.shape[0]
            parts.append(AdapterPart(slice(outputs, end), slice(ranks, ranks + rank), b_OR))
            matrices.append(a_RD)
            ranks += rank
            scaling = projection.scaling
        outputs = end
    a_RD = None if not matrices else matrices[0] if len(matrices) == 1 else torch.cat(matrices)
    return JointLinear(weight_OD, bias_O, a_RD, tuple(parts), scaling)


def joint_forward(
    x_TD: torch.Tensor, linear: JointLinear, *, out_TO: torch.Tensor, low_TR: torch.Tensor
) -> None:
    """Write the outputs, and the scaled low-rank inputs that the backward needs."""
    if linear.bias_O is None:
        torch.mm(x_TD, linear.weight_OD.t(), out=out_TO)
    else:
        torch.addmm(linear.bias_O, x_TD, linear.weight_OD.t(), out=out_TO)
    if linear.a_RD is None:
        return
    torch.mm(x_TD, linear.a_RD.t(), out=low_TR).mul_(linear.scaling)
    for part in linear.parts:
        out_TO[:, part.outputs].addmm_(low_TR[:, part.ranks], part.b_OR.t())


def joint_backward(
    grad_TO: torch.Tensor,
    x_TD: torch.Tensor,
    low_TR: torch.Tensor,
    linear: JointLinear,
    *,
    grad_x_TD: torch.Tensor | None,
) -> list[torch.Tensor]:
    """Each adapter's gradients of A and B, alternating, float32; the input's in ``grad_x_TD``."""
    if grad_x_TD is not None:
        torch.mm(grad_TO, linear.weight_OD, out=grad_x_TD)
    if linear.a_RD is None:
        return []
    grad_low_TR = torch.empty_like(low_TR)
    for part in linear.parts:
        torch.mm(grad_TO[:, part.outputs], part.b_OR, out=grad_low_TR[:, part.ranks])
    grad_low_TR.mul_(linear.scaling)
    if grad_x_TD is not None:
        grad_x_TD.addmm_(grad_low_TR, linear.a_RD)
    grad_a_RD = grad_low_TR.t() @ x_TD
    gradients = []
    for part in linear.parts:
        # As its transpose: twice as fast as the product of a wide and a skinny matrix.
        grad_b_RO = low_TR[:, part.ranks].t() @ grad_TO[:, part.outputs]
        gradients += [grad_a_RD[part.ranks].float(), grad_b_RO.t().contiguous().float()]
    return gradients

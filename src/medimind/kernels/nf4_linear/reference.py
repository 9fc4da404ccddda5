"""Products with weights in NF4, and the adapters' part beside them.

``B`` rows, ``I`` inputs, ``O`` outputs of all parts, ``E`` columns for adapters and bias. Parts
(q, k and v, say) share the input, and their outputs lie one after the other:

```
out_BO = x_BI [W0 | W1 | W2]^T + t_BE b_OE^T
```

The weights are those of ``dequantize_nf4`` in the dtype of ``x``; sums are fp32 or wider.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from medimind.kernels.nf4 import Nf4Weight, dequantize_nf4
from medimind.kernels.nf4.dequantize import dequantize_absmax

MOST_PARTS = 3


@dataclass(frozen=True, slots=True)
class Nf4Parts:
    """Weights that share their inputs, ready for ``nf4_linear``.

    Attributes:
        weights: One to three, each with rows of whole blocks of 64.
        scales: fp32 scale of each block of each weight, decoded once: an eighth more bytes than
            the 4-bit codes, and nothing to look up at each step.
    """

    weights: tuple[Nf4Weight, ...]
    scales: tuple[torch.Tensor, ...]

    @property
    def num_inputs(self) -> int:
        """I."""
        return self.weights[0].shape[1]

    @property
    def num_outputs(self) -> int:
        """O."""
        return sum(weight.shape[0] for weight in self.weights)


def can_join(weights: Sequence[object]) -> bool:
    """Whether ``nf4_parts`` takes these."""
    found = [weight for weight in weights if isinstance(weight, Nf4Weight)]
    if not 1 <= len(found) <= MOST_PARTS or len(found) < len(weights):
        return False
    alike = len({weight.shape[1] for weight in found}) == 1
    return alike and all(w.block_size == 64 and w.shape[1] % 64 == 0 for w in found)


def nf4_parts(weights: Sequence[Nf4Weight]) -> Nf4Parts:
    """The weights with their scales decoded.

    Raises:
        ValueError: There are none or more than three, or their rows are not whole blocks of 64.
    """
    if not can_join(weights):
        shapes = [(weight.shape, weight.block_size) for weight in weights]
        raise ValueError(f"weights of shapes and block sizes {shapes} have no joint product")
    scales = tuple(dequantize_absmax(weight).contiguous() for weight in weights)
    return Nf4Parts(tuple(weights), scales)


def nf4_linear(
    x_BI: torch.Tensor,
    parts: Nf4Parts,
    *,
    update: tuple[torch.Tensor, torch.Tensor] | None = None,
    out_BO: torch.Tensor,
) -> torch.Tensor:
    """The product, written to ``out_BO``.

    Args:
        x_BI: fp32, bf16 or fp16; rows may be apart.
        parts: The weights.
        update: ``t_BE`` and ``b_OE`` in the dtype of ``x``, E a multiple of 64; ``None`` for none.
        out_BO: Its rows may be apart.
    """
    wide = torch.promote_types(x_BI.dtype, torch.float32)
    dense = [dequantize_nf4(weight, dtype=x_BI.dtype) for weight in parts.weights]
    total = x_BI.to(wide) @ torch.cat(dense).to(wide).t()
    if update is not None:
        t_BE, b_OE = update
        total += t_BE.to(wide) @ b_OE.to(wide).t()
    return out_BO.copy_(total)

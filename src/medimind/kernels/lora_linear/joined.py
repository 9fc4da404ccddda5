"""The buffers that let one GEMM do a base projection and its adapters together.

``T`` tokens, ``I`` inputs, ``O`` outputs of all projections that share an input, ``R`` rank, ``E``
columns for the adapters (their ranks side by side, one for the bias, padded to ``ALIGNMENT``).

```
            I columns     E columns
input   T | x           | x Aq^T   x Ak^T   x Av^T   1     0 |      1 only where there is a bias
weight  O | Wq          | s Bq     0        0        bq    0 |
          | Wk          | 0        s Bk     0        bk    0 |
          | Wv          | 0        0        s Bv     bv    0 |

output = input @ weight^T             base, bias and updates, in one accumulation
grad_output @ weight = (grad_x of the base | grad_t), with grad_t = s grad_output @ B
```

Beside the base GEMM an update then costs ``E / I`` more arithmetic (1.6 % for width 4096) instead
of a read and a write of the whole output.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch

ALIGNMENT = 64


@dataclass(frozen=True, slots=True)
class AdapterPart:
    """Where one projection's adapter lies within a joined weight.

    Attributes:
        rows: Its outputs within ``O``.
        columns: Its rank columns within ``E``.
        scaling: The factor ``s``.
    """

    rows: slice
    columns: slice
    scaling: float


@dataclass(frozen=True, slots=True)
class InputBuffer:
    """``x`` and the adapters' columns; ``joined_TX`` views both where they lie side by side."""

    x_TI: torch.Tensor
    t_TE: torch.Tensor
    joined_TX: torch.Tensor | None

    def rows(self, num_tokens: int) -> InputBuffer:
        """The same buffer for the first tokens only."""
        return self.part(0, num_tokens)

    def part(self, start: int, stop: int) -> InputBuffer:
        """The same buffer for some of the tokens."""
        joined_TX = None if self.joined_TX is None else self.joined_TX[start:stop]
        return InputBuffer(self.x_TI[start:stop], self.t_TE[start:stop], joined_TX)


def can_stack(parts: list[AdapterPart], num_outputs: int) -> bool:
    """Whether adapters are alike, in order, and cover all outputs: their B can be stacked."""
    if not 1 <= len(parts) <= 3 or parts[0].rows.start or parts[-1].rows.stop != num_outputs:
        return False
    ranks = {part.columns.stop - part.columns.start for part in parts}
    follow = all(a.rows.stop == b.rows.start for a, b in pairwise(parts))
    return len(ranks) == 1 and follow and len({part.scaling for part in parts}) == 1


def num_adapter_columns(ranks: list[int], *, has_bias: bool) -> int:
    """``E`` for adapters of these ranks."""
    used = sum(ranks) + has_bias
    return -(-used // ALIGNMENT) * ALIGNMENT


def joined_input(
    num_tokens: int,
    num_inputs: int,
    num_columns: int,
    *,
    bias_column: int | None,
    dtype: torch.dtype,
    device: torch.device,
) -> InputBuffer:
    """A buffer with ``x`` and ``t`` side by side; padding is 0 and the bias column 1."""
    joined_TX = torch.zeros(num_tokens, num_inputs + num_columns, dtype=dtype, device=device)
    if bias_column is not None:
        joined_TX[:, num_inputs + bias_column] = 1
    return InputBuffer(joined_TX[:, :num_inputs], joined_TX[:, num_inputs:], joined_TX)


def split_input(x_TI: torch.Tensor, num_columns: int, *, bias_column: int | None) -> InputBuffer:
    """A buffer for an ``x`` that lies elsewhere."""
    t_TE = torch.zeros(x_TI.shape[0], num_columns, dtype=x_TI.dtype, device=x_TI.device)
    if bias_column is not None:
        t_TE[:, bias_column] = 1
    return InputBuffer(x_TI, t_TE, None)


def write_adapters(
    weight_OX: torch.Tensor,
    b_parts: list[torch.Tensor],
    parts: list[AdapterPart],
    *,
    num_inputs: int,
) -> None:
    """Put ``s B`` of every adapter into its place; the zeros around are there already."""
    for b_OR, part in zip(b_parts, parts, strict=True):
        columns = slice(num_inputs + part.columns.start, num_inputs + part.columns.stop)
        torch.mul(b_OR, part.scaling, out=weight_OX[part.rows, columns])

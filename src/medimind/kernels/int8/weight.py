"""A matrix in 8 bits, as a value.

``V`` rows (entries of the vocabulary), ``D`` columns.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch


@dataclass(frozen=True, slots=True)
class Int8Weight:
    """``values_VD * scale_V[:, None]``; the largest magnitude of a row is 127 times its scale.

    Attributes:
        values_VD: int8; may lie in pinned host memory.
        scale_V: fp32, on the card.
        dtype: The dtype it was quantised from.
    """

    values_VD: torch.Tensor
    scale_V: torch.Tensor
    dtype: torch.dtype

    @property
    def shape(self) -> torch.Size:
        """``(V, D)``."""
        return self.values_VD.shape

    @property
    def device(self) -> torch.device:
        """Where the values are."""
        return self.values_VD.device

    @property
    def nbytes(self) -> int:
        """Bytes held, scales included."""
        return self.values_VD.nbytes + self.scale_V.nbytes

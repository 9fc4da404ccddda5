"""Memory that one training step after the other uses again."""

from __future__ import annotations

import math

import torch


class Workspace:
    """Named buffers that grow and are never given back between steps.

    Fresh memory costs a page fault every 4 KiB when it is first touched; at the size of a layer's
    activations that is more than computing them.

    Args:
        dtype: Of all buffers.
        device: Of all buffers.
    """

    def __init__(self, *, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype = dtype
        self.device = device
        self._buffers: dict[tuple[str, int], torch.Tensor] = {}

    def take(self, name: str, *shape: int, index: int = 0) -> torch.Tensor:
        """An uninitialised tensor; the same memory at each call of this name and index."""
        numel = math.prod(shape)
        flat = self._buffers.get((name, index))
        if flat is None or flat.numel() < numel:
            self._buffers.pop((name, index), None)
            del flat
            flat = torch.empty(numel, dtype=self.dtype, device=self.device)
            self._buffers[(name, index)] = flat
        return flat[:numel].view(shape)

    @property
    def nbytes(self) -> int:
        """Bytes held."""
        return sum(buffer.nbytes for buffer in self._buffers.values())

"""Where the joined weights come from: kept dense on the card, or dequantised each time.

The 8B in bf16 keeps 14 GB; dequantising each layer twice a step instead costs 12 ms on an H100 and
needs one scratch buffer of each group (0.44 GB).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medimind.models.fused.layer import GROUP_NAMES, FusedLayer, GroupName


class ResidentWeights:
    """All joined weights, dense; the adapters' columns are rewritten after each update."""

    def __init__(
        self, layers: Sequence[FusedLayer], *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.layers = layers
        self.buffers: list[dict[GroupName, torch.Tensor]] = []
        for layer in layers:
            buffers = {
                name: layer.groups[name].weight_buffer(dtype=dtype, device=device)
                for name in GROUP_NAMES
            }
            for name, buffer in buffers.items():
                layer.groups[name].fill(buffer)
            self.buffers.append(buffers)

    def __call__(self, layer: FusedLayer, name: GroupName) -> torch.Tensor:
        """The layer's joined weight."""
        return self.buffers[layer.index][name]

    def refresh(self) -> None:
        """Take over changed adapters."""
        for layer, buffers in zip(self.layers, self.buffers, strict=True):
            for name, buffer in buffers.items():
                layer.groups[name].fill_adapters(buffer)


class ScratchWeights:
    """One buffer for each group, filled when another layer is asked for."""

    def __init__(
        self, layers: Sequence[FusedLayer], *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.buffers = {
            name: layers[0].groups[name].weight_buffer(dtype=dtype, device=device)
            for name in GROUP_NAMES
        }
        self.holds: dict[GroupName, int] = {}

    def __call__(self, layer: FusedLayer, name: GroupName) -> torch.Tensor:
        """The layer's joined weight, dequantised unless it is there already."""
        buffer = self.buffers[name]
        if self.holds.get(name) != layer.index:
            layer.groups[name].fill(buffer)
            self.holds[name] = layer.index
        return buffer

    def refresh(self) -> None:
        """Forget what is held; the next use takes over changed adapters."""
        self.holds.clear()

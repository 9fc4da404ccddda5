"""Where the joined weights come from: kept dense on the card, or dequantised each time.

The 8B in bf16 keeps 14 GB; dequantising each layer twice a step instead costs 12 ms on an H100 and
needs one scratch buffer of each group (0.44 GB).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medimind.kernels.availability import has_triton
from medimind.models.fused.layer import GROUP_NAMES, FusedLayer, GroupName


class ResidentWeights:
    """All joined weights, dense; the adapters' columns are rewritten after each update.

    A group's weights of all layers are one tensor, so that one launch rewrites them.
    """

    def __init__(
        self, layers: Sequence[FusedLayer], *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.layers = layers
        self.buffers: dict[GroupName, torch.Tensor] = {}
        for name in GROUP_NAMES:
            first = layers[0].groups[name]
            shape = (len(layers), first.num_outputs, first.width)
            self.buffers[name] = torch.zeros(shape, dtype=dtype, device=device)
            for layer in layers:
                layer.groups[name].fill(self.buffers[name][layer.index])

    def __call__(self, layer: FusedLayer, name: GroupName) -> torch.Tensor:
        """The layer's joined weight."""
        return self.buffers[name][layer.index]

    def refresh(self) -> None:
        """Take over changed adapters."""
        for name, buffer_LOX in self.buffers.items():
            group = self.layers[0].groups[name]
            if group.b_OR is not None and buffer_LOX.is_cuda and has_triton():
                self._refresh_stacked(name, buffer_LOX)
            else:
                for layer in self.layers:
                    layer.groups[name].fill_adapters(buffer_LOX[layer.index])

    def _refresh_stacked(self, name: GroupName, buffer_LOX: torch.Tensor) -> None:
        from medimind.kernels.lora_linear.blocks import write_blocks

        stacks = [layer.groups[name].b_OR for layer in self.layers]
        first = stacks[0]
        assert first is not None
        if len(stacks) > 1 and stacks[1] is not None:
            # Layers are alike, so their adapters lie at equal distances in the flat buffer.
            distance = stacks[1].storage_offset() - first.storage_offset()
        else:
            distance = first.numel()
        stacked_LOR = first.as_strided(
            (len(stacks), *first.shape), (distance, *first.stride()), first.storage_offset()
        )
        group = self.layers[0].groups[name]
        write_blocks(stacked_LOR, buffer_LOX, group.parts, num_inputs=group.num_inputs)


class ScratchWeights:
    """One buffer for each group, filled when another layer is asked for."""

    def __init__(
        self, layers: Sequence[FusedLayer], *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.buffers: dict[GroupName, torch.Tensor] = {
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

"""Where the joined weights come from: kept dense on the card, or dequantised each time.

The 8B in bf16 keeps 14 GB; dequantising each layer twice a step instead costs 12 ms on an H100 and
needs one scratch buffer of each group (0.44 GB).
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import torch

from medimind.kernels.availability import has_triton
from medimind.kernels.lora_linear.joined import write_adapters
from medimind.models.fused.group import GROUP_NAMES, FusedLayer, GroupName


class AdapterColumns:
    """The adapters' and biases' columns of the joined weights alone, where the rest lies elsewhere.

    Attributes:
        buffers: ``(L, O, E)`` of each group.
    """

    def __init__(
        self, layers: Sequence[FusedLayer], *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.layers = layers
        self.buffers: dict[GroupName, torch.Tensor] = {}
        for name in GROUP_NAMES:
            first = layers[0].groups[name]
            shape = (len(layers), first.num_outputs, first.num_columns)
            self.buffers[name] = torch.zeros(shape, dtype=dtype, device=device)
            for layer in layers:
                layer.groups[name].fill_bias(self.buffers[name][layer.index])

    def refresh(self) -> None:
        """Take over changed adapters."""
        _write_adapters(self.layers, self.buffers)


class ResidentWeights:
    """All joined weights, dense; the adapters' columns are rewritten after each update.

    Attributes:
        buffers: ``(L, O, I + E)`` of each group; with A below the weight ``(L, O + E, I + E)``.
    """

    def __init__(
        self, layers: Sequence[FusedLayer], *, dtype: torch.dtype, device: torch.device
    ) -> None:
        self.layers = layers
        self.buffers: dict[GroupName, torch.Tensor] = {}
        for name in GROUP_NAMES:
            first = layers[0].groups[name]
            shape = (len(layers), first.num_rows, first.width)
            self.buffers[name] = torch.zeros(shape, dtype=dtype, device=device)
            for layer in layers:
                layer.groups[name].fill(self.buffers[name][layer.index])

    def __call__(self, layer: FusedLayer, name: GroupName) -> torch.Tensor:
        """The layer's joined weight."""
        return self.buffers[name][layer.index]

    def refresh(self) -> None:
        """Take over changed adapters."""
        _write_adapters(self.layers, self.buffers)
        for name, buffer_LOX in self.buffers.items():
            first = self.layers[0].groups[name]
            if first.a_below and first.parts:
                stacked_LEI = stack_layers([layer.groups[name].a_EI for layer in self.layers])
                rows = slice(first.num_outputs, first.num_outputs + stacked_LEI.shape[1])
                buffer_LOX[:, rows, : first.num_inputs].copy_(stacked_LEI)


def _write_adapters(layers: Sequence[FusedLayer], buffers: dict[GroupName, torch.Tensor]) -> None:
    """Rewrite the adapters' columns, which end the rows; stacked ones in one launch."""
    for name, buffer_LOX in buffers.items():
        groups = [layer.groups[name] for layer in layers]
        first = groups[0]
        before = buffer_LOX.shape[2] - first.num_columns
        if first.b_OR is not None and buffer_LOX.is_cuda and has_triton():
            from medimind.kernels.lora_linear.blocks import write_blocks

            stacked_LOR = stack_layers([group.b_OR for group in groups if group.b_OR is not None])
            write_blocks(stacked_LOR, buffer_LOX, first.parts, num_inputs=before)
            continue
        for weight_OX, group in zip(buffer_LOX, groups, strict=True):
            write_adapters(weight_OX, group.b, group.parts, num_inputs=before)


def stack_layers(views: Sequence[torch.Tensor]) -> torch.Tensor:
    """One tensor over the views of all layers, which lie at equal distances in the flat buffer."""
    first = views[0]
    distance = first.numel()
    if len(views) > 1:
        distance = views[1].storage_offset() - first.storage_offset()
    return first.as_strided(
        (len(views), *first.shape), (distance, *first.stride()), first.storage_offset()
    )


class SomeWeights:
    """The joined weights of some products, dense.

    Args:
        layers: All layers.
        wanted: Indices of layers and groups.
        dtype: What the weights are dequantised to.
        device: Where they lie.
    """

    def __init__(
        self,
        layers: Sequence[FusedLayer],
        wanted: Collection[tuple[int, GroupName]],
        *,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.layers = layers
        self.buffers: dict[tuple[int, GroupName], torch.Tensor] = {}
        for index, name in sorted(wanted):
            group = layers[index].groups[name]
            buffer_OX = group.weight_buffer(dtype=dtype, device=device)
            group.fill(buffer_OX)
            self.buffers[index, name] = buffer_OX

    def __call__(self, layer: FusedLayer, name: GroupName) -> torch.Tensor:
        """The layer's joined weight."""
        return self.buffers[layer.index, name]

    def refresh(self) -> None:
        """Take over changed adapters."""
        for (index, name), buffer_OX in self.buffers.items():
            self.layers[index].groups[name].fill_adapters(buffer_OX)


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

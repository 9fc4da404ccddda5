"""The products of a new token: over weights that stay in NF4, or over dense joined ones.

``B`` rows, ``I`` inputs, ``O`` outputs of a group, ``E`` columns for adapters and bias.
"""

from __future__ import annotations

from collections.abc import Sequence
from types import ModuleType
from typing import Literal, Protocol

import torch

from medimind.kernels.availability import has_triton
from medimind.kernels.lora_linear.forward import project_down
from medimind.kernels.lora_linear.joined import InputBuffer
from medimind.kernels.nf4_linear.reference import Nf4Parts, can_join, nf4_parts
from medimind.models.fused.group import GROUP_NAMES, FusedLayer, GroupName
from medimind.models.fused.products import JoinedProducts, joined_products
from medimind.models.fused.weights import AdapterColumns

Held = Literal["dense", "nf4", "scratch"]
"""Dense copies of all base weights beside them, none as they are in NF4, or dense at each step."""


class TokenProducts(Protocol):
    """Outputs of a group of projections; see ``models/fused/products.py``."""

    def forward(
        self,
        layer: FusedLayer,
        name: GroupName,
        inputs: InputBuffer,
        *,
        out: torch.Tensor,
        project: bool = True,
    ) -> None:
        """Outputs of all projections that share the input."""
        ...

    def refresh(self) -> None:
        """Take over changed adapters."""
        ...

    def forget(self) -> None:
        """Keep nothing between calls that a graph would not make itself."""
        ...


class Nf4Products:
    """Over the 4-bit weights themselves, with adapters and biases added in the same sums.

    Args:
        layers: The layers; ``all_nf4``.
        dtype: Of adapters and inputs.
        device: Where they lie.
        many: Takes over from two rows on, where dense weights are faster
            (docs/notes/gpu_generate.md).
    """

    def __init__(
        self,
        layers: Sequence[FusedLayer],
        *,
        dtype: torch.dtype,
        device: torch.device,
        many: JoinedProducts | None = None,
    ) -> None:
        self.many = many
        self.parts: dict[tuple[int, GroupName], Nf4Parts] = {
            (layer.index, name): nf4_parts([p.nf4 for p in layer.groups[name].projections if p.nf4])
            for layer in layers
            for name in GROUP_NAMES
        }
        self.columns = None
        if many is None:
            self.columns = AdapterColumns(layers, dtype=dtype, device=device)
        self.kernels = _kernels(device)

    def forward(
        self,
        layer: FusedLayer,
        name: GroupName,
        inputs: InputBuffer,
        *,
        out: torch.Tensor,
        project: bool = True,
    ) -> None:
        """See ``TokenProducts``."""
        if self.many is not None and len(out) > 1:
            self.many.forward(layer, name, inputs, out=out, project=project)
            return
        group = layer.groups[name]
        update = None
        if project:
            project_down(inputs, group.a_EI)
        if group.num_columns and (project or group.bias_column is not None):
            update = inputs.t_TE, self._columns(layer, name)
        self.kernels.nf4_linear(
            inputs.x_TI, self.parts[layer.index, name], update=update, out_BO=out
        )

    def refresh(self) -> None:
        """See ``TokenProducts``."""
        if self.columns is not None:
            self.columns.refresh()
        if self.many is not None:
            self.many.refresh()

    def forget(self) -> None:
        """See ``TokenProducts``."""
        if self.many is not None:
            self.many.forget()

    def _columns(self, layer: FusedLayer, name: GroupName) -> torch.Tensor:
        """The adapters' and the bias' columns: those of the dense weights where there are any."""
        if self.many is not None:
            group = layer.groups[name]
            return self.many.weights(layer, name)[: group.num_outputs, group.num_inputs :]
        if self.columns is None:
            raise AssertionError("there are columns without dense weights")
        return self.columns.buffers[name][layer.index]


def make_products(
    layers: Sequence[FusedLayer], *, held: Held, dtype: torch.dtype, device: torch.device
) -> TokenProducts:
    """The products over weights that are held this way."""
    dense = None
    if held != "nf4":
        dense = joined_products(layers, resident=held == "dense", dtype=dtype, device=device)
    if dense is None or (held == "dense" and all_nf4(layers)):
        return Nf4Products(layers, dtype=dtype, device=device, many=dense)
    return dense


def all_nf4(layers: Sequence[FusedLayer]) -> bool:
    """Whether the products can read all base weights as NF4."""
    groups = [group for layer in layers for group in layer.groups.values()]
    return all(can_join([p.nf4 for p in group.projections]) for group in groups)


def _kernels(device: torch.device) -> ModuleType:
    if device.type == "cuda" and has_triton():
        from medimind.kernels.nf4_linear import forward

        return forward
    from medimind.kernels.nf4_linear import reference

    return reference

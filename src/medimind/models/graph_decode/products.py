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
from medimind.models.fused.products import JoinedProducts
from medimind.models.fused.weights import AdapterColumns, ResidentWeights, ScratchWeights
from medimind.models.graph_decode.unit_products import UnitProducts

Held = Literal["units", "dense", "nf4", "scratch"]
"""In NF4 in the order of Hopper's tensor cores, as dense copies of all base weights, in NF4 as they
are, or dense at each step."""


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
    ) -> torch.Tensor | None:
        """Outputs of all projections that share the input.

        Returns:
            ``None`` where they are written to ``out``; else fp32 parts ``(S, B, O)`` whose sum they
            are, for the operation that follows to add up.
        """
        ...

    def gated(
        self, layer: FusedLayer, inputs: InputBuffer, *, out: torch.Tensor, project: bool = True
    ) -> bool:
        """Write ``silu(gate) up`` to ``out``, if products and gating are one launch here."""
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
        many: Takes over from two rows on, where it is faster (docs/notes/gpu_generate.md).
        columns: The adapters' and biases' columns, where ``many`` does not hold them dense.
    """

    def __init__(
        self,
        layers: Sequence[FusedLayer],
        *,
        dtype: torch.dtype,
        device: torch.device,
        many: TokenProducts | None = None,
        columns: AdapterColumns | None = None,
    ) -> None:
        self.many = many
        self.parts: dict[tuple[int, GroupName], Nf4Parts] = {
            (layer.index, name): nf4_parts([p.nf4 for p in layer.groups[name].projections if p.nf4])
            for layer in layers
            for name in GROUP_NAMES
        }
        self.columns = columns
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
    ) -> torch.Tensor | None:
        """See ``TokenProducts``."""
        if self.many is not None and len(out) > 1:
            return self.many.forward(layer, name, inputs, out=out, project=project)
        group = layer.groups[name]
        update = None
        if project:
            project_down(inputs, group.a_EI)
        if group.num_columns and (project or group.bias_column is not None):
            update = inputs.t_TE, self._columns(layer, name)
        self.kernels.nf4_linear(
            inputs.x_TI, self.parts[layer.index, name], update=update, out_BO=out
        )
        return None

    def gated(
        self, layer: FusedLayer, inputs: InputBuffer, *, out: torch.Tensor, project: bool = True
    ) -> bool:
        """See ``TokenProducts``."""
        if self.many is None or len(out) == 1:
            return False
        return self.many.gated(layer, inputs, out=out, project=project)

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
        if self.columns is not None:
            return self.columns.buffers[name][layer.index]
        if not isinstance(self.many, DenseProducts):
            raise AssertionError("there are neither columns nor dense weights")
        group = layer.groups[name]
        return self.many.weights(layer, name)[: group.num_outputs, group.num_inputs :]


class DenseProducts(JoinedProducts):
    """``JoinedProducts`` as ``TokenProducts``."""

    def gated(
        self, layer: FusedLayer, inputs: InputBuffer, *, out: torch.Tensor, project: bool = True
    ) -> bool:
        """Never one launch."""
        return False


def make_products(
    layers: Sequence[FusedLayer], *, held: Held, dtype: torch.dtype, device: torch.device
) -> TokenProducts:
    """The products over weights that are held this way."""
    if held == "nf4":
        return Nf4Products(layers, dtype=dtype, device=device)
    if held == "units":
        columns = AdapterColumns(layers, dtype=dtype, device=device)
        many = UnitProducts(layers, columns=columns, device=device)
        return Nf4Products(layers, dtype=dtype, device=device, many=many, columns=columns)
    source = ResidentWeights if held == "dense" else ScratchWeights
    dense = DenseProducts(source(layers, dtype=dtype, device=device))
    if held == "dense" and all_nf4(layers):
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

"""The products of a step: in the compute dtype over joined weights, or in fp8.

``T`` tokens, ``I`` inputs, ``O`` outputs of a group, ``E`` columns for adapters and bias,
``L`` layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, TypeAlias

import torch

from medimind.kernels.lora_linear import backward
from medimind.kernels.lora_linear.forward import joined_forward
from medimind.kernels.lora_linear.joined import InputBuffer
from medimind.models.fused.group import FusedLayer, GroupName
from medimind.models.fused.weights import ResidentWeights, ScratchWeights, SomeWeights

Codes: TypeAlias = tuple[torch.Tensor, torch.Tensor]
"""Rows in e4m3, and their scales."""


class Products(Protocol):
    """Outputs of a group of projections, and gradients of its inputs."""

    def forward(
        self,
        layer: FusedLayer,
        name: GroupName,
        inputs: InputBuffer,
        *,
        out: torch.Tensor,
        project: bool = True,
    ) -> None:
        """Outputs of all projections that share the input, with their updates.

        Args:
            layer: The layer.
            name: The group.
            inputs: Holds ``x``; with ``project`` its adapter columns are filled here.
            out: ``(T, O)``.
            project: Whether the adapter columns are still to be filled.
        """
        ...

    def codes(
        self, layer: FusedLayer, name: GroupName, x_TI: torch.Tensor, *, gradient: bool = False
    ) -> Codes | None:
        """Where what makes ``x`` may put its codes, which spares the product that follows a pass.

        Args:
            layer: The layer of that product.
            name: Its group.
            x_TI: Its input, or the gradient of its outputs.
            gradient: Whether it is the latter.

        Returns:
            ``None`` where the product takes no codes.
        """
        ...

    def narrow(
        self, layer: FusedLayer, name: GroupName, x_TI: torch.Tensor, *, out: InputBuffer
    ) -> None:
        """The base product, and ``x A^T`` beside it (o, down); the next norm adds the update.

        Args:
            layer: The layer.
            name: The group.
            x_TI: Its input.
            out: Where they go.
        """
        ...

    def input_gradient(
        self,
        layer: FusedLayer,
        name: GroupName,
        grad_TO: torch.Tensor,
        *,
        grad_inputs: InputBuffer,
        needs_input: bool = True,
        update: bool = True,
    ) -> None:
        """Gradients of the inputs and of the adapter columns.

        Args:
            layer: The layer.
            name: The group.
            grad_TO: Gradient of the outputs.
            grad_inputs: Where they go.
            needs_input: Whether that of ``x`` is wanted.
            update: Whether the adapters' part of it is added.
        """
        ...

    def refresh(self) -> None:
        """Take over changed adapters."""
        ...

    def forget(self) -> None:
        """Keep nothing between calls that a graph would not make itself."""
        ...


class JoinedProducts:
    """In the compute dtype, over weights with the adapters' columns beside them."""

    def __init__(self, weights: ResidentWeights | ScratchWeights | SomeWeights) -> None:
        self.weights = weights

    def forward(
        self,
        layer: FusedLayer,
        name: GroupName,
        inputs: InputBuffer,
        *,
        out: torch.Tensor,
        project: bool = True,
    ) -> None:
        """See ``Products``."""
        group = layer.groups[name]
        weight_OX = self.weights(layer, name)[: group.num_outputs]
        joined_forward(inputs, weight_OX, group.a_EI if project else None, out=out)

    def codes(
        self, layer: FusedLayer, name: GroupName, x_TI: torch.Tensor, *, gradient: bool = False
    ) -> Codes | None:
        """See ``Products``."""
        return None

    def narrow(
        self, layer: FusedLayer, name: GroupName, x_TI: torch.Tensor, *, out: InputBuffer
    ) -> None:
        """See ``Products``."""
        weight_OI = self.weights(layer, name)[:, : layer.groups[name].num_inputs]
        assert out.joined_TX is not None
        torch.mm(x_TI, weight_OI.t(), out=out.joined_TX[:, : weight_OI.shape[0]])

    def input_gradient(
        self,
        layer: FusedLayer,
        name: GroupName,
        grad_TO: torch.Tensor,
        *,
        grad_inputs: InputBuffer,
        needs_input: bool = True,
        update: bool = True,
    ) -> None:
        """See ``Products``."""
        weight_OX = self.weights(layer, name)[: layer.groups[name].num_outputs]
        backward.input_gradient(
            grad_TO, weight_OX, grad_inputs=grad_inputs, needs_input=needs_input
        )
        if needs_input and update:
            backward.update_gradient(grad_inputs, layer.groups[name].a_EI)

    def refresh(self) -> None:
        """See ``Products``."""
        self.weights.refresh()

    def forget(self) -> None:
        """See ``Products``."""
        if isinstance(self.weights, ScratchWeights):
            self.weights.refresh()


def joined_products(
    layers: Sequence[FusedLayer], *, resident: bool, dtype: torch.dtype, device: torch.device
) -> JoinedProducts:
    """Over weights that are kept dense, or dequantised each time."""
    source = ResidentWeights if resident else ScratchWeights
    return JoinedProducts(source(layers, dtype=dtype, device=device))

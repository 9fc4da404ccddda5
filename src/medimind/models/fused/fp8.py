"""The products of a step in fp8: frozen weights in e4m3 with a scale for each row.

Each product sums over its last dimension on both sides, so a weight is kept twice, each time with
its own scales: by outputs for the forward pass, by inputs for the gradient. Together they take the
memory of the bf16 weight. Adapters stay in the compute dtype and are added within the products'
sums; their own gradients never see fp8.

Some products stay in the compute dtype (``plan.exact_products``, ``plan.exact_gradients``): a few
of them make more than half of what fp8 adds to the loss.

``T`` tokens, ``I`` inputs, ``O`` outputs of a group, ``E`` columns for adapters and bias,
``L`` layers.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medimind.kernels.lora_linear.forward import project_down
from medimind.kernels.lora_linear.joined import InputBuffer
from medimind.models.fused.fp8_weights import (
    E4M3,
    Fp8Weights,
    fp8_weights,
    multiply,
    quantize_group,
)
from medimind.models.fused.group import GROUP_NAMES, FusedLayer, GroupName
from medimind.models.fused.plan import exact_gradients, exact_products
from medimind.models.fused.products import Codes, JoinedProducts
from medimind.models.fused.weights import AdapterColumns, SomeWeights, stack_layers


class Fp8Products:
    """See ``products.Products``.

    Args:
        layers: With adapters bound.
        num_tokens: Most tokens of a batch.
        dtype: Compute dtype of everything else.
        device: Where it all lies.
    """

    def __init__(
        self,
        layers: Sequence[FusedLayer],
        *,
        num_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.layers = layers
        self.forward_weights: dict[GroupName, Fp8Weights] = {}
        self.backward_weights: dict[GroupName, Fp8Weights] = {}
        self.columns = AdapterColumns(layers, dtype=dtype, device=device)
        self.a_LIE: dict[GroupName, torch.Tensor] = {}
        self.exact = exact_products(len(layers))
        self.exact_back = exact_gradients(len(layers))
        wanted = self.exact | self.exact_back
        self.joined = JoinedProducts(SomeWeights(layers, wanted, dtype=dtype, device=device))
        for name in GROUP_NAMES:
            group = layers[0].groups[name]
            outputs, inputs = group.num_outputs, group.num_inputs
            ahead = [layer for layer in layers if (layer.index, name) not in self.exact]
            back = [layer for layer in layers if (layer.index, name) not in self.exact_back]
            by_outputs = fp8_weights(ahead, outputs, inputs, device=device)
            by_inputs = fp8_weights(back, inputs, outputs, device=device)
            both = {"by_outputs": by_outputs, "by_inputs": by_inputs}
            quantize_group(layers, name, **both, dtype=dtype, device=device)
            self.forward_weights[name], self.backward_weights[name] = by_outputs, by_inputs
            shape = (len(layers), inputs, group.num_columns)
            self.a_LIE[name] = torch.zeros(shape, dtype=dtype, device=device)
        groups = layers[0].groups.values()
        widest = max(max(group.num_inputs, group.num_outputs) for group in groups)
        self._values = torch.empty(num_tokens * widest, dtype=E4M3, device=device)
        self._scales_T = torch.empty(num_tokens, dtype=torch.float32, device=device)
        self._ready: torch.Tensor | None = None  # whose codes are in that room
        self.refresh()

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
        if (layer.index, name) in self.exact:
            self.joined.forward(layer, name, inputs, out=out, project=project)
            return
        if project:
            project_down(inputs, layer.groups[name].a_EI)
        b_OE = self.columns.buffers[name][layer.index]
        update = (inputs.t_TE, b_OE) if b_OE.shape[1] else None
        self._multiply(inputs.x_TI, self.forward_weights[name], layer, update, out)

    def codes(
        self, layer: FusedLayer, name: GroupName, x_TI: torch.Tensor, *, gradient: bool = False
    ) -> Codes | None:
        """See ``Products``."""
        if (layer.index, name) in (self.exact_back if gradient else self.exact):
            return None
        self._ready = x_TI
        return self._room(*x_TI.shape)

    def narrow(
        self, layer: FusedLayer, name: GroupName, x_TI: torch.Tensor, *, out: InputBuffer
    ) -> None:
        """See ``Products``."""
        a_EI = layer.groups[name].a_EI
        if a_EI.shape[0]:
            torch.mm(x_TI, a_EI.t(), out=out.t_TE[:, : a_EI.shape[0]])
        if (layer.index, name) in self.exact:
            weight_OX = self.joined.weights(layer, name)
            torch.mm(x_TI, weight_OX[: out.x_TI.shape[1], : x_TI.shape[1]].t(), out=out.x_TI)
            return
        self._multiply(x_TI, self.forward_weights[name], layer, None, out.x_TI)

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
        if (layer.index, name) in self.exact_back:
            place = {"grad_inputs": grad_inputs, "needs_input": needs_input, "update": update}
            self.joined.input_gradient(layer, name, grad_TO, **place)
            return
        b_OE = self.columns.buffers[name][layer.index]
        if b_OE.shape[1]:
            torch.mm(grad_TO, b_OE, out=grad_inputs.t_TE)
        if not needs_input:
            return
        pair = (grad_inputs.t_TE, self.a_LIE[name][layer.index])
        self._multiply(
            grad_TO,
            self.backward_weights[name],
            layer,
            pair if update and b_OE.shape[1] else None,
            grad_inputs.x_TI,
        )

    def refresh(self) -> None:
        """See ``Products``."""
        self.forget()
        self.columns.refresh()
        self.joined.refresh()
        for name, a_LIE in self.a_LIE.items():
            stacked_LEI = stack_layers([layer.groups[name].a_EI for layer in self.layers])
            a_LIE[:, :, : stacked_LEI.shape[1]].copy_(stacked_LEI.transpose(1, 2))

    def forget(self) -> None:
        """See ``Products``: codes whose product never came, as something failed between."""
        self._ready = None

    def _multiply(
        self,
        x_TI: torch.Tensor,
        weights: Fp8Weights,
        layer: FusedLayer,
        update: tuple[torch.Tensor, torch.Tensor] | None,
        out: torch.Tensor,
    ) -> None:
        values_TI, scales_T = self._room(*x_TI.shape)
        ready = self._ready is not None and (self._ready.data_ptr(), self._ready.shape) == (
            x_TI.data_ptr(),
            x_TI.shape,
        )
        self._ready = None
        multiply(
            None if ready else x_TI,
            weights,
            layer,
            update=update,
            values_TI=values_TI,
            scales_T=scales_T,
            out=out,
        )

    def _room(self, num_tokens: int, width: int) -> tuple[torch.Tensor, torch.Tensor]:
        """For a product's input in e4m3, and its scales."""
        values_TI = self._values[: num_tokens * width].view(num_tokens, width)
        return values_TI, self._scales_T[:num_tokens]

"""The products of a step in fp8: frozen weights in e4m3 with a scale for each row.

Each product sums over its last dimension on both sides, so a weight is kept twice, each time with
its own scales: by outputs for the forward pass, by inputs for the gradient. Together they take the
memory of the bf16 weight. Adapters stay in the compute dtype and are added within the products'
sums; their own gradients never see fp8. Scales of inputs and gradients are made for each token.

``T`` tokens, ``I`` inputs, ``O`` outputs of a group, ``E`` columns for adapters and bias,
``L`` layers.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import torch

from medimind.kernels.lora_linear.forward import project_down
from medimind.kernels.lora_linear.joined import InputBuffer
from medimind.models.fused.group import GROUP_NAMES, FusedLayer, GroupName
from medimind.models.fused.weights import AdapterColumns, stack_layers

E4M3 = torch.float8_e4m3fn
MULTIPLE = 16
"""Rows must start at multiples of 16 bytes."""
CAPABILITY = (8, 9)
"""The first cards with fp8 tensor cores (Ada)."""


@dataclass(frozen=True, slots=True)
class _Quantized:
    """Matrices of all layers and the scales of their rows."""

    values: torch.Tensor
    scales: torch.Tensor


def why_no_fp8(layers: Sequence[FusedLayer], device: torch.device) -> str | None:
    """Why this card or model cannot compute in fp8; ``None`` when it can."""
    if device.type == "cuda" and torch.cuda.get_device_capability(device) < CAPABILITY:
        name = torch.cuda.get_device_name(device)
        return f"{name} has no fp8 (Ada, Hopper and later cards do)"
    for name in GROUP_NAMES:
        group = layers[0].groups[name]
        if group.num_inputs % MULTIPLE or group.num_outputs % MULTIPLE:
            return f"the widths of {name} are not multiples of {MULTIPLE}"
    return None


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
        self.kernels = fp8_kernels(device)
        self.forward_weights: dict[GroupName, _Quantized] = {}
        self.backward_weights: dict[GroupName, _Quantized] = {}
        self.columns = AdapterColumns(layers, dtype=dtype, device=device)
        self.a_LIE: dict[GroupName, torch.Tensor] = {}
        for name in GROUP_NAMES:
            group = layers[0].groups[name]
            self._quantize(name, dtype=dtype, device=device)
            shape = (len(layers), group.num_inputs, group.num_columns)
            self.a_LIE[name] = torch.zeros(shape, dtype=dtype, device=device)
        groups = layers[0].groups.values()
        widest = max(max(group.num_inputs, group.num_outputs) for group in groups)
        self._values = torch.empty(num_tokens * widest, dtype=E4M3, device=device)
        self._scales_T = torch.empty(num_tokens, dtype=torch.float32, device=device)
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
        if project:
            project_down(inputs, layer.groups[name].a_EI)
        b_OE = self.columns.buffers[name][layer.index]
        update = (inputs.t_TE, b_OE) if b_OE.shape[1] else None
        self._multiply(inputs.x_TI, self.forward_weights[name], layer, update, out)

    def narrow(
        self, layer: FusedLayer, name: GroupName, x_TI: torch.Tensor, *, out: InputBuffer
    ) -> None:
        """See ``Products``."""
        a_EI = layer.groups[name].a_EI
        if a_EI.shape[0]:
            torch.mm(x_TI, a_EI.t(), out=out.t_TE[:, : a_EI.shape[0]])
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
        self.columns.refresh()
        for name, a_LIE in self.a_LIE.items():
            stacked_LEI = stack_layers([layer.groups[name].a_EI for layer in self.layers])
            a_LIE[:, :, : stacked_LEI.shape[1]].copy_(stacked_LEI.transpose(1, 2))

    def forget(self) -> None:
        """See ``Products``; nothing is kept."""

    def _multiply(
        self,
        x_TI: torch.Tensor,
        weights: _Quantized,
        layer: FusedLayer,
        update: tuple[torch.Tensor, torch.Tensor] | None,
        out: torch.Tensor,
    ) -> None:
        num_tokens, width = x_TI.shape
        values, scales = self.kernels.quantize_rows(
            x_TI,
            out_TI=self._values[: num_tokens * width].view(num_tokens, width),
            scale_T=self._scales_T[:num_tokens],
        )
        self.kernels.fp8_linear(
            values,
            scales,
            weights.values[layer.index],
            weights.scales[layer.index],
            update=update,
            out_TO=out,
        )

    def _quantize(self, name: GroupName, *, dtype: torch.dtype, device: torch.device) -> None:
        """Both copies of a group's weights; each layer is dequantised once."""
        group, count = self.layers[0].groups[name], len(self.layers)
        outputs, inputs = group.num_outputs, group.num_inputs
        copies = [
            _Quantized(
                torch.empty(count, rows, width, dtype=E4M3, device=device),
                torch.empty(count, rows, dtype=torch.float32, device=device),
            )
            for rows, width in ((outputs, inputs), (inputs, outputs))
        ]
        scratch_OX = group.weight_buffer(dtype=dtype, device=device)
        for layer in self.layers:
            layer.groups[name].fill(scratch_OX)
            weight_OI = scratch_OX[:outputs, :inputs]
            for matrix, copy in zip((weight_OI, weight_OI.t().contiguous()), copies, strict=True):
                self.kernels.quantize_rows(
                    matrix, out_TI=copy.values[layer.index], scale_T=copy.scales[layer.index]
                )
        self.forward_weights[name], self.backward_weights[name] = copies


def fp8_kernels(device: torch.device) -> ModuleType:
    """Triton's on a card, the references elsewhere."""
    if device.type == "cuda":
        from medimind.kernels.fp8 import forward

        return forward
    from medimind.kernels.fp8 import reference

    return reference

"""Frozen weights in e4m3 with a scale for each row, and the products with them.

Both factors of a product have a scale for each row along the sum: weights one for each output or
input, made once; what they are multiplied with one for each token, made each time.

``T`` tokens, ``I`` inputs, ``O`` outputs of a group, ``E`` columns for adapters and bias,
``L`` layers.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import ModuleType

import torch

from medimind.kernels.availability import has_triton
from medimind.models.fused.group import GROUP_NAMES, FusedLayer, GroupName

E4M3 = torch.float8_e4m3fn
MULTIPLE = 16
"""Rows must start at multiples of 16 bytes."""
CAPABILITY = (8, 9)
"""The first cards with fp8 tensor cores (Ada)."""


def why_no_fp8_here(device: torch.device) -> str | None:
    """Why this card cannot compute in fp8, whatever the model; ``None`` when it can."""
    if device.type != "cuda":
        return None
    if torch.cuda.get_device_capability(device) < CAPABILITY:
        name = torch.cuda.get_device_name(device)
        return f"{name} has no fp8 (Ada, Hopper and later cards do)"
    if not has_triton():
        return "the package triton is not installed (it has builds for Linux)"
    return None


def why_no_fp8(layers: Sequence[FusedLayer], device: torch.device) -> str | None:
    """Why this card or model cannot compute in fp8; ``None`` when it can."""
    if reason := why_no_fp8_here(device):
        return reason
    for name in GROUP_NAMES:
        group = layers[0].groups[name]
        if group.num_inputs % MULTIPLE or group.num_outputs % MULTIPLE:
            return f"the widths of {name} are not multiples of {MULTIPLE}"
    return None


@dataclass(frozen=True, slots=True)
class Fp8Weights:
    """One matrix of each of some layers.

    Attributes:
        values_LOI: e4m3.
        scales_LO: fp32, of the rows.
        places: Where a layer of this index lies in them.
    """

    values_LOI: torch.Tensor
    scales_LO: torch.Tensor
    places: Mapping[int, int]

    def take(self, layer: FusedLayer, weight_OI: torch.Tensor) -> None:
        """Quantise a layer's matrix, where the layer is one of these."""
        place = self.places.get(layer.index)
        if place is not None:
            fp8_kernels(weight_OI.device).quantize_rows(
                weight_OI, out_TI=self.values_LOI[place], scale_T=self.scales_LO[place]
            )


def fp8_weights(
    layers: Sequence[FusedLayer], num_rows: int, width: int, *, device: torch.device
) -> Fp8Weights:
    """Room for a matrix of each of these layers."""
    return Fp8Weights(
        torch.empty(len(layers), num_rows, width, dtype=E4M3, device=device),
        torch.empty(len(layers), num_rows, dtype=torch.float32, device=device),
        {layer.index: place for place, layer in enumerate(layers)},
    )


def quantize_group(
    layers: Sequence[FusedLayer],
    name: GroupName,
    *,
    by_outputs: Fp8Weights | None,
    by_inputs: Fp8Weights | None = None,
    dtype: torch.dtype,
    device: torch.device,
) -> None:
    """Fill the matrices of a group; each layer is dequantised once.

    Args:
        layers: All layers.
        name: The group.
        by_outputs: For the forward pass, ``(O, I)``; ``None`` where nothing of it is in fp8.
        by_inputs: For gradients, ``(I, O)``; likewise.
        dtype: What the weights are dequantised to.
        device: Where they lie.
    """
    group = layers[0].groups[name]
    scratch_OX = group.weight_buffer(dtype=dtype, device=device)
    for layer in layers:
        layer.groups[name].fill(scratch_OX)
        weight_OI = scratch_OX[: group.num_outputs, : group.num_inputs]
        if by_outputs is not None:
            by_outputs.take(layer, weight_OI)
        if by_inputs is not None:
            by_inputs.take(layer, weight_OI.t().contiguous())


def multiply(
    x_TI: torch.Tensor | None,
    weights: Fp8Weights,
    layer: FusedLayer,
    *,
    update: tuple[torch.Tensor, torch.Tensor] | None,
    values_TI: torch.Tensor,
    scales_T: torch.Tensor,
    out: torch.Tensor,
) -> torch.Tensor:
    """``x w^T`` in fp8, plus ``t b^T`` in the compute dtype.

    Args:
        x_TI: In the compute dtype; ``None`` where it is quantised already.
        weights: ``w`` of some layers.
        layer: One of them.
        update: ``t`` and ``b``.
        values_TI: Room for x in e4m3.
        scales_T: Room for its scales.
        out: ``(T, O)``.
    """
    kernels, place = fp8_kernels(out.device), weights.places[layer.index]
    if x_TI is not None:
        kernels.quantize_rows(x_TI, out_TI=values_TI, scale_T=scales_T)
    return kernels.fp8_linear(
        values_TI,
        scales_T,
        weights.values_LOI[place],
        weights.scales_LO[place],
        update=update,
        out_TO=out,
    )


def fp8_kernels(device: torch.device) -> ModuleType:
    """Triton's on a card, the references elsewhere."""
    if device.type == "cuda":
        from medimind.kernels.fp8 import forward

        return forward
    from medimind.kernels.fp8 import reference

    return reference

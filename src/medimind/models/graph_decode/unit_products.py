"""The products of new tokens over NF4 in the order of Hopper's tensor cores.

4 bits a weight are read at any number of rows, and no dense copy is held (``kernels/nf4_linear``,
``hopper.py`` and ``repack.py``).
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.metadata import version
from types import ModuleType

import torch

from medimind.kernels.availability import has_triton
from medimind.kernels.lora_linear.forward import project_down
from medimind.kernels.lora_linear.joined import InputBuffer
from medimind.kernels.nf4_linear.repack import Nf4Units, can_repack, repack
from medimind.models.fused.group import GROUP_NAMES, FusedLayer, GroupName
from medimind.models.fused.weights import AdapterColumns

CAPABILITY = 9
"""Hopper; later cards have other tensor cores."""
TRITON = "3.6."
"""Gluon is experimental: the kernel is written for this version and was run with no other."""


class UnitProducts:
    """See ``products.TokenProducts``; for two rows and more.

    Args:
        layers: The layers; ``why_no_units`` finds nothing.
        columns: The adapters' and biases' columns.
        device: Where they lie.
    """

    def __init__(
        self, layers: Sequence[FusedLayer], *, columns: AdapterColumns, device: torch.device
    ) -> None:
        self.columns = columns
        self.kernels = _kernels(device)
        self.units: dict[tuple[int, GroupName], Nf4Units] = {
            (layer.index, name): repack(
                [p.nf4 for p in layer.groups[name].projections if p.nf4],
                interleaved=name == "gate_up",
            )
            for layer in layers
            for name in GROUP_NAMES
        }

    def forward(
        self,
        layer: FusedLayer,
        name: GroupName,
        inputs: InputBuffer,
        *,
        out: torch.Tensor,
        project: bool = True,
    ) -> torch.Tensor | None:
        """See ``TokenProducts``; gate and up only come gated."""
        assert name != "gate_up"
        return self._product(layer, name, inputs, out=out, project=project)

    def gated(
        self, layer: FusedLayer, inputs: InputBuffer, *, out: torch.Tensor, project: bool = True
    ) -> bool:
        """See ``TokenProducts``."""
        self._product(layer, "gate_up", inputs, out=out, project=project)
        return True

    def refresh(self) -> None:
        """See ``TokenProducts``."""
        self.columns.refresh()

    def forget(self) -> None:
        """See ``TokenProducts``; nothing is kept."""

    def _product(
        self,
        layer: FusedLayer,
        name: GroupName,
        inputs: InputBuffer,
        *,
        out: torch.Tensor,
        project: bool,
    ) -> torch.Tensor | None:
        group, update = layer.groups[name], None
        if project:
            project_down(inputs, group.a_EI)
        if group.num_columns and (project or group.bias_column is not None):
            update = inputs.t_TE, self.columns.buffers[name][layer.index]
        return self.kernels.units_linear(
            inputs.x_TI, self.units[layer.index, name], update=update, out_BO=out, pdl=True
        )


def why_no_units(
    layers: Sequence[FusedLayer], *, dtype: torch.dtype, device: torch.device
) -> str | None:
    """Why weights are not held as units here; ``None`` when they can be."""
    if device.type != "cuda" or torch.cuda.get_device_capability(device)[0] != CAPABILITY:
        return "the card is not a Hopper"
    if not has_triton() or not version("triton").startswith(TRITON):
        return f"the kernel is written for Triton {TRITON}x, which is not installed"
    if dtype != torch.bfloat16:
        return f"the compute dtype is {dtype}, not bf16"
    for layer in layers:
        for name, group in layer.groups.items():
            weights = [p.nf4 for p in group.projections if p.nf4]
            if len(weights) < len(group.projections) or not can_repack(weights):
                return f"the weights of {name} are not whole units in NF4"
    return None


def _kernels(device: torch.device) -> ModuleType:
    if device.type == "cuda" and has_triton():
        from medimind.kernels.nf4_linear import hopper

        return hopper
    from medimind.kernels.nf4_linear import repack as reference

    return reference

"""What is kept between the passes, and the buffers for it.

| keep       | kept for each layer                | a token, 8B in bf16 | done again       |
|------------|------------------------------------|---------------------|------------------|
| everything | all inputs of GEMMs and norms      | 32 x 110 KB         | nothing          |
| cheap      | all but h1 and h2                  | 32 x 94 KB          | norms            |
| inputs     | x_in                               | 32 x 8 KB           | all but the end  |
| offload    | nothing; x_in and o on the host    | 32 x 0 KB           | the same         |
| and more   | nothing; qkv and x_mid there too   | 32 x 0 KB           | norms, MLP       |

z is made again by the backward pass of SwiGLU where that does the adapters' products too.

``T`` tokens, ``D`` model width, ``E`` adapter columns.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from medimind.kernels.lora_linear.joined import InputBuffer, joined_input, split_input
from medimind.models.architecture import Architecture
from medimind.models.fused.activations import Activations, Workspace
from medimind.models.fused.group import FusedLayer, GroupName
from medimind.models.fused.offload import NUM_SLOTS, Offload, Travel
from medimind.models.fused.plan import Keep, StepPlan, exact_products


class BufferMaker:
    """Makes activations and workspaces for one number of tokens."""

    def __init__(
        self,
        architecture: Architecture,
        layers: list[FusedLayer],
        *,
        num_tokens: int,
        mlp_chunk: int | None = None,
        dtype: torch.dtype,
        device: torch.device,
        apart: bool = False,
    ) -> None:
        self.architecture = architecture
        self.layers = layers
        self.num_tokens = num_tokens
        self.num_wide = min(num_tokens, mlp_chunk or num_tokens)
        self.dtype = dtype
        self.device = device
        self.apart = apart

    def rows(self, width: int, *, num_tokens: int | None = None) -> torch.Tensor:
        """An uninitialised ``(T, width)`` buffer."""
        shape = (num_tokens or self.num_tokens, width)
        return torch.empty(shape, dtype=self.dtype, device=self.device)

    def inputs(
        self, name: GroupName, *, num_tokens: int | None = None, exact: bool = False
    ) -> InputBuffer:
        """An input buffer of the first layer's group (all layers' are alike).

        Args:
            name: The group.
            num_tokens: T.
            exact: Whether it is multiplied in the compute dtype, though others are not.
        """
        group, num_tokens = self.layers[0].groups[name], num_tokens or self.num_tokens
        if self.apart and not exact:
            return group.split_buffer(self.rows(group.num_inputs, num_tokens=num_tokens))
        return group.input_buffer(num_tokens, dtype=self.dtype, device=self.device)

    def travel(self, *, projections: bool) -> Travel:
        """Slots and host buffers of what travels: with ``projections`` all but the MLP's."""
        stream = torch.cuda.Stream() if self.device.type == "cuda" else None
        groups = self.layers[0].groups
        widths = {"x_in_TD": self.architecture.hidden_size, "o": groups["o"].num_inputs}
        if projections:
            widths["x_mid_TD"] = self.architecture.hidden_size
            widths["qkv_TQ"] = groups["qkv"].num_outputs
        return Travel(
            {
                name: Offload(
                    [self.rows(width) for _ in range(NUM_SLOTS)],
                    num_layers=len(self.layers),
                    stream=stream,
                )
                for name, width in widths.items()
            }
        )

    def activations(self, keep: Keep, *, travel: Travel | None = None) -> list[Activations]:
        """One for each layer; what is not kept is shared.

        Args:
            keep: What is kept.
            travel: What of it takes turns in a few buffers.
        """
        if keep == "inputs":
            return self._inputs_kept(travel)
        shared = self._activations()
        # SwiGLU's backward makes z itself where it does the skinny products.
        z = shared.z if keep == "cheap" or self.layers[0].skinny_in_swiglu else None
        if keep == "cheap":
            return [self._activations(h1=shared.h1, h2=shared.h2, z=z) for _ in self.layers]
        exact = exact_products(len(self.layers))
        return [
            self._activations(z=z, exact=(layer.index, "gate_up") in exact) for layer in self.layers
        ]

    def _inputs_kept(self, travel: Travel | None) -> list[Activations]:
        """Layer inputs alone, and the few columns that down's adapter takes."""
        names = ("x_in_TD", "x_mid_TD", "qkv_TQ")
        turns: dict[str, Any] = {
            name: travel.tensors[name].slots for name in names if travel and name in travel.tensors
        }
        if "x_in_TD" not in turns:
            turns["x_in_TD"] = [self.rows_D() for _ in self.layers]
        shared = self._activations(**{name: slots[0] for name, slots in turns.items()})
        found = []
        for layer in self.layers:
            here = {name: slots[layer.index % len(slots)] for name, slots in turns.items()}
            if layer.skinny_in_swiglu:
                here["z_columns_TE"] = self.rows(layer.groups["down"].a_EI.shape[0])
            if "x_mid_TD" in turns:
                here["o_columns_TE"] = layer.groups["o"].split_buffer(shared.x_in_TD).t_TE
            found.append(replace(shared, **here))
        return found

    def workspace(self, saved: Activations, *, keep: Keep) -> Workspace:
        """The buffers all layers share, next to the activations of one."""
        groups = self.layers[0].groups
        reuse_z = self.layers[0].skinny_in_swiglu and groups["down"].bias_column is None
        grad_h1 = self.inputs("qkv")
        alike = self.num_wide == self.num_tokens and groups["qkv"].width == groups["gate_up"].width
        grad_z = saved.z if reuse_z else self.inputs("down", num_tokens=self.num_wide)
        return Workspace(
            delta=self._delta(),
            grad_TD=self.rows_D(),
            grad_h1=grad_h1,
            grad_h2=grad_h1 if alike else self.inputs("gate_up", num_tokens=self.num_wide),
            grad_z=grad_z,
            grad_o=groups["o"].split_buffer(self._within(grad_z, groups["o"].num_inputs)),
            grad_qkv_TQ=self._grad_qkv(saved, keep=keep),
        )

    def _grad_qkv(self, saved: Activations, *, keep: Keep) -> torch.Tensor:
        """Where gate and up lay, when they are made again for each layer: they are done then."""
        width = self.layers[0].groups["qkv"].num_outputs
        numel = self.num_tokens * width
        if keep != "inputs" or saved.gate_up_TI.numel() < numel:
            return self.rows(width)
        return saved.gate_up_TI.view(-1)[:numel].view(self.num_tokens, width)

    def final(self, saved: Activations, plan: StepPlan) -> torch.Tensor:
        """Room for what the final norm takes; with little memory, where tensors are done with."""
        if plan.keep != "inputs":
            return self.rows_D()
        if not plan.offload_projections:
            return saved.x_mid_TD
        return self._within(saved.z, self.architecture.hidden_size)

    def _within(self, buffer: InputBuffer, width: int) -> torch.Tensor:
        """A ``(T, width)`` buffer inside one whose values are not needed then, or its own."""
        whole = buffer.x_TI if buffer.joined_TX is None else buffer.joined_TX
        numel = self.num_tokens * width
        return (
            whole.view(-1)[:numel].view(-1, width) if whole.numel() >= numel else self.rows(width)
        )

    def _delta(self) -> InputBuffer:
        """Room for the product of o or down and the adapter columns of its input."""
        width = self.architecture.hidden_size
        columns = max(self.layers[0].groups[name].num_columns for name in ("o", "down"))
        place = {"dtype": self.dtype, "device": self.device}
        if self.apart:
            return split_input(self.rows(width), columns, bias_column=None)
        return joined_input(self.num_tokens, width, columns, bias_column=None, **place)

    def rows_D(self) -> torch.Tensor:
        """An uninitialised ``(T, D)`` buffer."""
        return self.rows(self.architecture.hidden_size)

    def _activations(
        self,
        *,
        x_in_TD: torch.Tensor | None = None,
        x_mid_TD: torch.Tensor | None = None,
        qkv_TQ: torch.Tensor | None = None,
        h1: InputBuffer | None = None,
        h2: InputBuffer | None = None,
        z: InputBuffer | None = None,
        exact: bool = False,
    ) -> Activations:
        groups = self.layers[0].groups
        x_in_TD = self.rows_D() if x_in_TD is None else x_in_TD
        if qkv_TQ is None:
            qkv_TQ = self.rows(groups["qkv"].num_outputs)
        z_columns_TE = None
        if z is None:
            z = self.inputs("down", num_tokens=self.num_wide)
        elif self.layers[0].skinny_in_swiglu:
            z_columns_TE = self.rows(groups["down"].a_EI.shape[0])
        return Activations(
            x_in_TD=x_in_TD,
            x_mid_TD=self.rows_D() if x_mid_TD is None else x_mid_TD,
            h1=h1 or self.inputs("qkv"),
            qkv_TQ=qkv_TQ,
            o_columns_TE=groups["o"].split_buffer(x_in_TD).t_TE,
            h2=h2 or self.inputs("gate_up", exact=exact),
            gate_up_TI=self.rows(groups["gate_up"].num_outputs, num_tokens=self.num_wide),
            z=z,
            z_columns_TE=z.t_TE if z_columns_TE is None else z_columns_TE,
        )

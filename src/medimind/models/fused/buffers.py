"""What is kept between the passes, and the buffers for it.

| keep       | kept for each layer                | a token, 8B in bf16 | done again       |
|------------|------------------------------------|---------------------|------------------|
| everything | all inputs of GEMMs and norms      | 32 x 110 KB         | nothing          |
| cheap      | all but h1 and h2                  | 32 x 94 KB          | norms            |
| inputs     | x_in                               | 32 x 8 KB           | all but the end  |

z is made again by the backward pass of SwiGLU where that does the adapters' products too.

``T`` tokens, ``D`` model width, ``E`` adapter columns.
"""

from __future__ import annotations

from dataclasses import replace

import torch

from medimind.kernels.lora_linear.joined import InputBuffer
from medimind.models.architecture import Architecture
from medimind.models.fused.group import FusedLayer, GroupName
from medimind.models.fused.layer import Activations, Workspace
from medimind.models.fused.plan import Keep


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

    def inputs(self, name: GroupName, *, num_tokens: int | None = None) -> InputBuffer:
        """An input buffer of the first layer's group (all layers' are alike)."""
        group, num_tokens = self.layers[0].groups[name], num_tokens or self.num_tokens
        if self.apart:
            return group.split_buffer(self.rows(group.num_inputs, num_tokens=num_tokens))
        return group.input_buffer(num_tokens, dtype=self.dtype, device=self.device)

    def activations(
        self, keep: Keep, *, inputs: list[torch.Tensor] | None = None
    ) -> list[Activations]:
        """One for each layer; what is not kept is shared.

        Args:
            keep: What is kept.
            inputs: Buffers that the layers' inputs take turns in; ``None`` makes one for each.
        """
        if keep == "inputs":
            inputs = inputs or [self.rows_D() for _ in self.layers]
            shared = self._activations(x_in=inputs[0])
            return [
                replace(shared, x_in_TD=inputs[layer.index % len(inputs)]) for layer in self.layers
            ]
        shared = self._activations()
        # SwiGLU's backward makes z itself where it does the skinny products.
        z = shared.z if keep == "cheap" or self.layers[0].skinny_in_swiglu else None
        if keep == "cheap":
            return [self._activations(h1=shared.h1, h2=shared.h2, z=z) for _ in self.layers]
        return [self._activations(z=z) for _ in self.layers]

    def workspace(self, saved: Activations, *, keep: Keep) -> Workspace:
        """The buffers all layers share, next to the activations of one."""
        groups = self.layers[0].groups
        reuse_z = self.layers[0].skinny_in_swiglu and groups["down"].bias_column is None
        delta_TD = self.rows_D()
        grad_h1 = self.inputs("qkv")
        alike = self.num_wide == self.num_tokens and groups["qkv"].width == groups["gate_up"].width
        # What o adds to the stream is as wide as its input in all families but a few.
        narrow = groups["o"].num_inputs == self.architecture.hidden_size
        o_TD = delta_TD if narrow else self.rows(groups["o"].num_inputs)
        return Workspace(
            delta_TD=delta_TD,
            grad_TD=self.rows_D(),
            grad_h1=grad_h1,
            grad_h2=grad_h1 if alike else self.inputs("gate_up", num_tokens=self.num_wide),
            grad_z=saved.z if reuse_z else self.inputs("down", num_tokens=self.num_wide),
            grad_o=groups["o"].split_buffer(o_TD),
            grad_qkv_TQ=self._grad_qkv(saved, keep=keep),
        )

    def _grad_qkv(self, saved: Activations, *, keep: Keep) -> torch.Tensor:
        """Where gate and up lay, when they are made again for each layer: they are done then."""
        width = self.layers[0].groups["qkv"].num_outputs
        numel = self.num_tokens * width
        if keep != "inputs" or saved.gate_up_TI.numel() < numel:
            return self.rows(width)
        return saved.gate_up_TI.view(-1)[:numel].view(self.num_tokens, width)

    def rows_D(self) -> torch.Tensor:
        """An uninitialised ``(T, D)`` buffer."""
        return self.rows(self.architecture.hidden_size)

    def _activations(
        self,
        *,
        x_in: torch.Tensor | None = None,
        h1: InputBuffer | None = None,
        h2: InputBuffer | None = None,
        z: InputBuffer | None = None,
    ) -> Activations:
        groups = self.layers[0].groups
        x_in_TD = self.rows_D() if x_in is None else x_in
        z_columns_TE = None
        if z is None:
            z = self.inputs("down", num_tokens=self.num_wide)
        elif self.layers[0].skinny_in_swiglu:
            z_columns_TE = self.rows(groups["down"].a_EI.shape[0])
        return Activations(
            x_in_TD=x_in_TD,
            x_mid_TD=self.rows_D(),
            h1=h1 or self.inputs("qkv"),
            qkv_TQ=self.rows(groups["qkv"].num_outputs),
            o_columns_TE=groups["o"].split_buffer(x_in_TD).t_TE,
            h2=h2 or self.inputs("gate_up"),
            gate_up_TI=self.rows(groups["gate_up"].num_outputs, num_tokens=self.num_wide),
            z=z,
            z_columns_TE=z.t_TE if z_columns_TE is None else z_columns_TE,
        )

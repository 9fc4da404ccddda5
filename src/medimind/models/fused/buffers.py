"""What is kept between the passes, and the buffers for it.

| keep         | kept for each layer                    | bytes a token, 8B bf16 | done again           |
|--------------|----------------------------------------|------------------------|----------------------|
| everything   | all inputs of its GEMMs and kernels    | 32 x 139 KB            | nothing              |
| cheap        | all but h1, h2, z                      | 32 x 94 KB             | norms, SwiGLU        |
| inputs       | x_in                                   | 32 x 8 KB              | the layer up to z    |

``T`` tokens, ``D`` model width, ``E`` adapter columns.
"""

from __future__ import annotations

from typing import Literal

import torch

from medimind.kernels.lora_linear.joined import InputBuffer
from medimind.models.architecture import Architecture
from medimind.models.fused.layer import Activations, FusedLayer, GroupName, Workspace

Keep = Literal["everything", "cheap", "inputs"]


class BufferMaker:
    """Makes activations and workspaces for one number of tokens."""

    def __init__(
        self,
        architecture: Architecture,
        layers: list[FusedLayer],
        *,
        num_tokens: int,
        dtype: torch.dtype,
        device: torch.device,
    ) -> None:
        self.architecture = architecture
        self.layers = layers
        self.num_tokens = num_tokens
        self.dtype = dtype
        self.device = device

    def rows(self, width: int) -> torch.Tensor:
        """An uninitialised ``(T, width)`` buffer."""
        return torch.empty(self.num_tokens, width, dtype=self.dtype, device=self.device)

    def inputs(self, name: GroupName) -> InputBuffer:
        """A joined input buffer of the first layer's group (all layers' are alike)."""
        group = self.layers[0].groups[name]
        return group.input_buffer(self.num_tokens, dtype=self.dtype, device=self.device)

    def activations(self, keep: Keep) -> list[Activations]:
        """One for each layer; what is not kept is shared."""
        shared = self._activations() if keep != "everything" else None
        if keep == "everything" or shared is None:
            return [self._activations() for _ in self.layers]
        if keep == "cheap":
            return [self._activations(h1=shared.h1, h2=shared.h2, z=shared.z) for _ in self.layers]
        width = self.architecture.hidden_size
        return [
            Activations(
                x_in_TD=self.rows(width),
                x_mid_TD=shared.x_mid_TD,
                h1=shared.h1,
                qkv_TQ=shared.qkv_TQ,
                o_columns_TE=shared.o_columns_TE,
                h2=shared.h2,
                gate_up_TI=shared.gate_up_TI,
                z=shared.z,
            )
            for _ in self.layers
        ]

    def workspace(self) -> Workspace:
        """The buffers all layers share."""
        width = self.architecture.hidden_size
        groups = self.layers[0].groups
        return Workspace(
            delta_TD=self.rows(width),
            grad_TD=self.rows(width),
            grad_h1=self.inputs("qkv"),
            grad_h2=self.inputs("gate_up"),
            grad_z=self.inputs("down"),
            grad_o=groups["o"].split_buffer(self.rows(groups["o"].num_inputs)),
            grad_qkv_TQ=self.rows(groups["qkv"].num_outputs),
        )

    def _activations(
        self,
        *,
        h1: InputBuffer | None = None,
        h2: InputBuffer | None = None,
        z: InputBuffer | None = None,
    ) -> Activations:
        width = self.architecture.hidden_size
        groups = self.layers[0].groups
        x_in_TD = self.rows(width)
        return Activations(
            x_in_TD=x_in_TD,
            x_mid_TD=self.rows(width),
            h1=h1 or self.inputs("qkv"),
            qkv_TQ=self.rows(groups["qkv"].num_outputs),
            o_columns_TE=groups["o"].split_buffer(x_in_TD).t_TE,
            h2=h2 or self.inputs("gate_up"),
            gate_up_TI=self.rows(groups["gate_up"].num_outputs),
            z=z or self.inputs("down"),
        )

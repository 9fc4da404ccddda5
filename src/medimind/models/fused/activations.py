"""What a layer leaves for its backward pass, and what all layers share.

``T`` tokens, ``D`` model width, ``I`` MLP width, ``Q`` width of q, k and v, ``E`` adapter columns.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch

from medimind.kernels.lora_linear.joined import InputBuffer


@dataclass(slots=True)
class Activations:
    """What the forward pass of a layer leaves for its backward pass.

    Attributes:
        x_in_TD: The layer's input.
        x_mid_TD: After attention.
        h1: Normed input of q, k and v.
        qkv_TQ: Turned queries and keys, and values.
        o_columns_TE: Adapter columns of the attention's output.
        h2: Normed input of gate and up.
        gate_up_TI: Gate and up side by side; the backward pass leaves their gradients here.
        z: Input of down.
        z_columns_TE: down's adapter columns, kept when ``z`` itself is not; else a view of them.
            The next norm leaves them here.
        o: Attention's output with its adapter columns.
        attention_saved: What the attention backend kept.
        rstd1_T: fp32 reciprocal root mean squares.
        rstd2_T: Likewise.
    """

    x_in_TD: torch.Tensor
    x_mid_TD: torch.Tensor
    h1: InputBuffer
    qkv_TQ: torch.Tensor
    o_columns_TE: torch.Tensor
    h2: InputBuffer
    gate_up_TI: torch.Tensor
    z: InputBuffer
    z_columns_TE: torch.Tensor
    o: InputBuffer | None = None
    attention_saved: tuple[Any, ...] = ()
    rstd1_T: torch.Tensor | None = None
    rstd2_T: torch.Tensor | None = None

    def rows(self, num_tokens: int) -> Activations:
        """The same buffers for the first tokens only."""
        return Activations(
            x_in_TD=self.x_in_TD[:num_tokens],
            x_mid_TD=self.x_mid_TD[:num_tokens],
            h1=self.h1.rows(num_tokens),
            qkv_TQ=self.qkv_TQ[:num_tokens],
            o_columns_TE=self.o_columns_TE[:num_tokens],
            h2=self.h2.rows(num_tokens),
            gate_up_TI=self.gate_up_TI[:num_tokens],
            z=self.z.rows(num_tokens),
            z_columns_TE=self.z_columns_TE[:num_tokens],
        )

    def part(self, start: int, stop: int) -> Activations:
        """What the MLP works on, for some of the tokens; its wide buffers hold these alone."""
        assert self.rstd2_T is not None
        few = stop - start
        per_layer = len(self.z_columns_TE) == len(self.x_mid_TD)
        columns = slice(start, stop) if per_layer else slice(0, few)
        return replace(
            self,
            x_mid_TD=self.x_mid_TD[start:stop],
            h2=self.h2.part(start, stop),
            gate_up_TI=self.gate_up_TI[:few],
            z=self.z.rows(few),
            z_columns_TE=self.z_columns_TE[columns],
            rstd2_T=self.rstd2_T[start:stop],
        )

    def forget_attention(self) -> None:
        """Let go of what the attention allocated."""
        self.o, self.attention_saved = None, ()


@dataclass(slots=True)
class Workspace:
    """Buffers that all layers share.

    Attributes:
        delta: Base product of o or down, and the adapter columns of its input, until the next norm
            adds them.
        grad_TD: Gradient on the residual path.
        grad_h1: Gradient of h1.
        grad_h2: Gradient of h2.
        grad_z: Gradient of z.
        grad_o: Gradient of the attention's output.
        grad_qkv_TQ: Gradient of q, k and v before they were turned.
    """

    delta: InputBuffer
    grad_TD: torch.Tensor
    grad_h1: InputBuffer
    grad_h2: InputBuffer
    grad_z: InputBuffer
    grad_o: InputBuffer
    grad_qkv_TQ: torch.Tensor

    def rows(self, num_tokens: int) -> Workspace:
        """The same buffers for the first tokens only."""
        return Workspace(
            delta=self.delta.rows(num_tokens),
            grad_TD=self.grad_TD[:num_tokens],
            grad_h1=self.grad_h1.rows(num_tokens),
            grad_h2=self.grad_h2.rows(num_tokens),
            grad_z=self.grad_z.rows(num_tokens),
            grad_o=self.grad_o.rows(num_tokens),
            grad_qkv_TQ=self.grad_qkv_TQ[:num_tokens],
        )

    def part(self, start: int, stop: int) -> Workspace:
        """What the MLP works on, for some of the tokens."""
        return replace(
            self,
            delta=self.delta.part(start, stop),
            grad_TD=self.grad_TD[start:stop],
            grad_h2=self.grad_h2.rows(stop - start),
            grad_z=self.grad_z.rows(stop - start),
        )

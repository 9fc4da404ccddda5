"""Projections that share an input, joined into one weight with their adapters beside it.

``T`` tokens, ``I`` inputs, ``O`` outputs of all, ``R`` rank, ``E`` columns for adapters and bias,
``X = I + E``. The buffers are drawn in ``kernels/lora_linear/joined.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import torch

from medimind.kernels.availability import has_triton
from medimind.kernels.lora_linear.joined import (
    AdapterPart,
    InputBuffer,
    joined_input,
    num_adapter_columns,
    split_input,
    write_adapters,
)
from medimind.kernels.nf4 import Nf4Weight, dequantize_nf4
from medimind.models.fused.plan import GroupName
from medimind.models.layer import Layer
from medimind.models.projection import Projection

__all__ = ["GROUP_NAMES", "FusedLayer", "Group", "GroupName", "fuse_layer", "make_group"]

GROUP_NAMES: tuple[GroupName, ...] = ("qkv", "o", "gate_up", "down")


@dataclass(slots=True)
class Group:
    """Projections of one layer that read the same input.

    Attributes:
        projections: In the order of their outputs.
        parts: Places of the adapters.
        num_inputs: I.
        num_outputs: O.
        num_columns: E.
        bias_column: Which of the E columns holds the bias.
        a_below: Whether A lies below the weight too, so that the product gives ``x A^T`` beside
            its outputs (o and down, whose update the next norm adds).
        a_EI: All A in the compute dtype, above each other; no padding.
        b: Each B in the compute dtype.
        grad_a_EI: fp32.
        grad_b: fp32.
        b_OR: All B above each other, where they are alike and cover all outputs.
        grad_b_OR: fp32, likewise.
    """

    projections: tuple[Projection, ...]
    parts: list[AdapterPart]
    num_inputs: int
    num_outputs: int
    num_columns: int
    bias_column: int | None
    a_below: bool = False
    a_EI: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    b: list[torch.Tensor] = field(default_factory=list)
    grad_a_EI: torch.Tensor = field(default_factory=lambda: torch.empty(0))
    grad_b: list[torch.Tensor] = field(default_factory=list)
    b_OR: torch.Tensor | None = None
    grad_b_OR: torch.Tensor | None = None

    @property
    def adapted(self) -> list[Projection]:
        """The projections that have an adapter."""
        return [p for p in self.projections if p.lora_a is not None]

    @property
    def width(self) -> int:
        """X."""
        return self.num_inputs + self.num_columns

    @property
    def num_rows(self) -> int:
        """Rows of the joined weight."""
        return self.num_outputs + (self.num_columns if self.a_below else 0)

    def weight_buffer(self, *, dtype: torch.dtype, device: torch.device) -> torch.Tensor:
        """Room for the joined weight, zero where nothing is ever written."""
        return torch.zeros(self.num_rows, self.width, dtype=dtype, device=device)

    def input_buffer(
        self, num_tokens: int, *, dtype: torch.dtype, device: torch.device
    ) -> InputBuffer:
        """Room for an input and its adapter columns, side by side."""
        return joined_input(
            num_tokens,
            self.num_inputs,
            self.num_columns,
            bias_column=self.bias_column,
            dtype=dtype,
            device=device,
        )

    def split_buffer(self, x_TI: torch.Tensor) -> InputBuffer:
        """Adapter columns for an input that lies elsewhere."""
        return split_input(x_TI, self.num_columns, bias_column=self.bias_column)

    def fill(self, weight_OX: torch.Tensor) -> None:
        """Write base weights, biases and adapters."""
        for projection, rows in self._rows():
            target = weight_OX[rows, : self.num_inputs]
            base = projection.base
            if isinstance(base, Nf4Weight):
                dequantize_nf4(base, dtype=weight_OX.dtype, out=target)
            else:
                target.copy_(base)
        self.fill_bias(weight_OX)
        self.fill_adapters(weight_OX)

    def fill_bias(self, weight_OX: torch.Tensor) -> None:
        """Write the biases into their column, counted from the end of the rows."""
        if self.bias_column is None:
            return
        column = weight_OX.shape[1] - self.num_columns + self.bias_column
        for projection, rows in self._rows():
            if projection.bias is not None:
                weight_OX[rows, column].copy_(projection.bias)

    def _rows(self) -> Iterator[tuple[Projection, slice]]:
        """Each projection and its rows of the joined weight."""
        row = 0
        for projection in self.projections:
            yield projection, slice(row, row + projection.out_features)
            row += projection.out_features

    def fill_adapters(self, weight_OX: torch.Tensor) -> None:
        """Write the adapters alone, after they changed."""
        if self.a_below:
            rows = slice(self.num_outputs, self.num_outputs + self.a_EI.shape[0])
            weight_OX[rows, : self.num_inputs].copy_(self.a_EI)
        if self.b_OR is not None and weight_OX.is_cuda and has_triton():
            from medimind.kernels.lora_linear.blocks import write_blocks

            write_blocks(self.b_OR[None], weight_OX[None], self.parts, num_inputs=self.num_inputs)
            return
        write_adapters(weight_OX, self.b, self.parts, num_inputs=self.num_inputs)


def make_group(projections: Sequence[Projection], *, a_below: bool = False) -> Group:
    """The group of these projections; its adapters are bound by ``FlatAdapters``."""
    parts, row, column = [], 0, 0
    for projection in projections:
        rows = slice(row, row + projection.out_features)
        row = rows.stop
        if projection.lora_a is None:
            continue
        columns = slice(column, column + projection.lora_a.shape[0])
        column = columns.stop
        parts.append(AdapterPart(rows, columns, projection.scaling))
    has_bias = any(p.bias is not None for p in projections)
    ranks = [part.columns.stop - part.columns.start for part in parts]
    return Group(
        projections=tuple(projections),
        parts=parts,
        num_inputs=projections[0].in_features,
        num_outputs=row,
        num_columns=num_adapter_columns(ranks, has_bias=has_bias),
        bias_column=column if has_bias else None,
        a_below=a_below,
    )


@dataclass(slots=True)
class FusedLayer:
    """A layer's weights as the step uses them."""

    index: int
    norm1_D: torch.Tensor
    norm2_D: torch.Tensor
    groups: dict[GroupName, Group]

    @property
    def skinny_in_swiglu(self) -> bool:
        """Whether the adapters around SwiGLU are done in one pass with it: alike, and all there."""
        wide, down = self.groups["gate_up"], self.groups["down"]
        if wide.b_OR is None or down.b_OR is None or len(wide.parts) != 2:
            return False
        return wide.b_OR.shape[1] == down.b_OR.shape[1]


def fuse_layer(layer: Layer) -> FusedLayer:
    """The joined groups of a decoder layer."""
    attention, mlp = layer.self_attn, layer.mlp
    return FusedLayer(
        index=layer.index,
        norm1_D=layer.input_layernorm.weight.data,
        norm2_D=layer.post_attention_layernorm.weight.data,
        groups={
            "qkv": make_group((attention.q_proj, attention.k_proj, attention.v_proj)),
            "o": make_group((attention.o_proj,), a_below=True),
            "gate_up": make_group((mlp.gate_proj, mlp.up_proj)),
            "down": make_group((mlp.down_proj,), a_below=True),
        },
    )

"""The arithmetic of one new token per row, over fixed buffers.

Projections that share an input are one product, with the adapters' columns beside the base weights
(``kernels/lora_linear/joined.py``). For the base model those columns of the inputs stay 0.

``B`` rows, ``D`` model width, ``N`` heads of q, k and v, ``K`` head width, ``I`` width of the MLP,
``V`` vocabulary, ``X`` inputs and adapter columns of a product.
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

import torch

from medimind.kernels.availability import has_triton
from medimind.kernels.backend import Kernels
from medimind.kernels.embedding import gather_rows
from medimind.kernels.int8 import table_product
from medimind.kernels.lora_linear.joined import InputBuffer
from medimind.models.decoder import Decoder
from medimind.models.fused.group import FusedLayer, GroupName
from medimind.models.graph_decode.products import TokenProducts


@dataclass(frozen=True, slots=True)
class Buffers:
    """What a step reads and writes, for the most rows; ``rows`` gives fewer.

    Attributes:
        token_ids_B: int64; the tokens to read.
        start_B: int64; each row's first column in the cache.
        length: int32 scalar; columns in use.
        hidden_BD: The residual stream.
        delta_BD: What the next norm adds to it.
        h: Normed input of q, k and v.
        o: Attention's output.
        h2: Normed input of gate and up.
        z: Input of down.
        qkv_BQ: Queries, keys and values.
        gate_up_BJ: Gate and up.
        logits_BV: In the compute dtype.
        likeliest_B: int64; the likeliest next token, -1 where the logits are not finite.
    """

    token_ids_B: torch.Tensor
    start_B: torch.Tensor
    length: torch.Tensor
    hidden_BD: torch.Tensor
    delta_BD: torch.Tensor
    h: InputBuffer
    o: InputBuffer
    h2: InputBuffer
    z: InputBuffer
    qkv_BQ: torch.Tensor
    gate_up_BJ: torch.Tensor
    logits_BV: torch.Tensor
    likeliest_B: torch.Tensor

    def rows(self, count: int) -> Buffers:
        """The same memory for the first rows."""
        return Buffers(
            token_ids_B=self.token_ids_B[:count],
            start_B=self.start_B[:count],
            length=self.length,
            hidden_BD=self.hidden_BD[:count],
            delta_BD=self.delta_BD[:count],
            h=self.h.rows(count),
            o=self.o.rows(count),
            h2=self.h2.rows(count),
            z=self.z.rows(count),
            qkv_BQ=self.qkv_BQ[:count],
            gate_up_BJ=self.gate_up_BJ[:count],
            logits_BV=self.logits_BV[:count],
            likeliest_B=self.likeliest_B[:count],
        )


def make_buffers(decoder: Decoder, layer: FusedLayer, *, rows: int) -> Buffers:
    """Buffers for this many rows."""
    a, dtype, device = decoder.architecture, decoder.dtype, decoder.device

    def empty(width: int) -> torch.Tensor:
        return torch.zeros(rows, width, dtype=dtype, device=device)

    def inputs(name: GroupName) -> InputBuffer:
        return layer.groups[name].input_buffer(rows, dtype=dtype, device=device)

    return Buffers(
        token_ids_B=torch.zeros(rows, dtype=torch.int64, device=device),
        start_B=torch.zeros(rows, dtype=torch.int64, device=device),
        length=torch.zeros((), dtype=torch.int32, device=device),
        hidden_BD=empty(a.hidden_size),
        delta_BD=empty(a.hidden_size),
        h=inputs("qkv"),
        o=inputs("o"),
        h2=inputs("gate_up"),
        z=inputs("down"),
        qkv_BQ=empty(layer.groups["qkv"].num_outputs),
        gate_up_BJ=empty(layer.groups["gate_up"].num_outputs),
        logits_BV=empty(a.vocab_size),
        likeliest_B=torch.zeros(rows, dtype=torch.int64, device=device),
    )


@dataclass(frozen=True, slots=True)
class TokenStep:
    """Reads one token per row and leaves the logits of the next.

    Attributes:
        decoder: The model.
        layers: Its layers as joined groups.
        products: Of the projections.
        kernels: Elementwise kernels of the device.
        keys: Cache of keys of each layer, ``(B, G, C, K)``.
        values: Cache of values.
        angles: Cosines and sines of all positions, ``(C, K)`` each.
        adapter: Whether the adapter is on.
        pdl: Let launches begin while those before them end (Hopper's programmatic launches).
    """

    decoder: Decoder
    layers: list[FusedLayer]
    products: TokenProducts
    kernels: Kernels
    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    angles: tuple[torch.Tensor, torch.Tensor]
    adapter: bool
    pdl: bool = False

    @torch.no_grad()
    def __call__(self, at: Buffers) -> None:
        """Take ``token_ids_B`` into the cache; fill ``logits_BV`` and ``likeliest_B``."""
        decoder = self.decoder
        at.length.add_(1)
        gather_rows(decoder.embedding, at.token_ids_B, out=at.hidden_BD)
        parts = None
        for layer in self.layers:
            self._norm(layer.norm1_D, at, parts, into=at.h.x_TI, add=layer.index > 0)
            parts = self._project(layer, "qkv", at.h, out=at.qkv_BQ)
            self._attend(layer, at, parts)
            parts = self._project(layer, "o", at.o, out=at.delta_BD)
            self._norm(layer.norm2_D, at, parts, into=at.h2.x_TI)
            self._gate(layer, at)
            parts = self._project(layer, "down", at.z, out=at.delta_BD)
        normed_BD = torch.empty_like(at.hidden_BD)
        self._norm(decoder.model.norm.weight, at, parts, into=normed_BD)
        table_product(normed_BD, decoder.head, out=at.logits_BV)
        _kernels("likeliest", at.logits_BV.device).likeliest(at.logits_BV, out_B=at.likeliest_B)

    def _norm(
        self,
        weight_D: torch.Tensor,
        at: Buffers,
        parts: torch.Tensor | None,
        *,
        into: torch.Tensor,
        add: bool = True,
    ) -> None:
        """Adds ``delta_BD``, or the parts of it, to the residual stream and norms that."""
        eps = self.decoder.architecture.rms_norm_epsilon
        if not add:
            self.kernels.rms_norm_forward(at.hidden_BD, weight_D, eps=eps, normed_out=into)
        elif parts is not None:
            _kernels("split_sums", parts.device).sum_norm(
                parts, weight_D, eps=eps, residual_BD=at.hidden_BD, normed_out=into, pdl=self.pdl
            )
        else:
            self.kernels.rms_norm_forward(
                at.delta_BD,
                weight_D,
                eps=eps,
                residual_TD=at.hidden_BD,
                normed_out=into,
                sum_out=at.hidden_BD,
            )

    def _project(
        self, layer: FusedLayer, name: GroupName, inputs: InputBuffer, *, out: torch.Tensor
    ) -> torch.Tensor | None:
        return self.products.forward(layer, name, inputs, out=out, project=self.adapter)

    def _gate(self, layer: FusedLayer, at: Buffers) -> None:
        """``silu(gate) up`` of the normed stream."""
        if self.products.gated(layer, at.h2, out=at.z.x_TI, project=self.adapter):
            return
        self._project(layer, "gate_up", at.h2, out=at.gate_up_BJ)
        gate_BI, up_BI = at.gate_up_BJ.chunk(2, dim=1)
        self.kernels.swiglu_forward(gate_BI, up_BI, out=at.z.x_TI)

    def _attend(self, layer: FusedLayer, at: Buffers, parts: torch.Tensor | None) -> None:
        a, rows = self.decoder.architecture, at.qkv_BQ.shape[0]
        attention = self.decoder.layers[layer.index].self_attn
        _kernels("decode_attention", at.qkv_BQ.device).attend_token(
            at.qkv_BQ.view(rows, a.num_heads + 2 * a.num_kv_heads, a.head_dim),
            *self.angles,
            self.keys[layer.index][:rows],
            self.values[layer.index][:rows],
            at.start_B,
            at.length,
            out_BQ=at.o.x_TI,
            q_norm_K=attention.q_norm.weight if a.qk_norm else None,
            k_norm_K=attention.k_norm.weight if a.qk_norm else None,
            eps=a.rms_norm_epsilon,
            parts_SBQ=parts,
            pdl=self.pdl,
        )


def _kernels(package: str, device: torch.device) -> Any:
    """Triton's kernels of a package on a card, the references elsewhere."""
    kind = "forward" if device.type == "cuda" and has_triton() else "reference"
    return import_module(f"medimind.kernels.{package}.{kind}")

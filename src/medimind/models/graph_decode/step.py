"""The arithmetic of one new token per row, over fixed buffers.

Projections that share an input are one product, with the adapters' columns beside the base weights
(``kernels/lora_linear/joined.py``). For the base model those columns of the inputs stay 0.

``B`` rows, ``D`` model width, ``N`` heads of q, k and v, ``K`` head width, ``I`` width of the MLP,
``V`` vocabulary, ``X`` inputs and adapter columns of a product.
"""

from __future__ import annotations

from dataclasses import dataclass
from types import ModuleType

import torch

from medimind.kernels.availability import has_triton
from medimind.kernels.backend import Kernels
from medimind.kernels.embedding import gather_rows
from medimind.kernels.int8 import table_product
from medimind.kernels.lora_linear.joined import InputBuffer
from medimind.models.decoder import Decoder
from medimind.models.fused.group import FusedLayer, GroupName
from medimind.models.graph_decode.products import TokenProducts
from medimind.models.rope import rotary_tables


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
        logits_BV: float32.
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

    def empty(width: int, kind: torch.dtype = dtype) -> torch.Tensor:
        return torch.zeros(rows, width, dtype=kind, device=device)

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
        logits_BV=empty(a.vocab_size, torch.float32),
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
        adapter: Whether the adapter is on.
    """

    decoder: Decoder
    layers: list[FusedLayer]
    products: TokenProducts
    kernels: Kernels
    keys: list[torch.Tensor]
    values: list[torch.Tensor]
    adapter: bool

    @torch.no_grad()
    def __call__(self, at: Buffers) -> None:
        """Take ``token_ids_B`` into the cache; fill ``logits_BV`` and ``likeliest_B``."""
        decoder, a = self.decoder, self.decoder.architecture
        at.length.add_(1)
        gather_rows(decoder.embedding, at.token_ids_B, out=at.hidden_BD)
        angles = rotary_tables(
            at.length - 1 - at.start_B, decoder.inverse_frequency, dtype=decoder.dtype
        )
        for layer in self.layers:
            self._norm(layer.norm1_D, at, into=at.h.x_TI, add=layer.index > 0)
            self._project(layer, "qkv", at.h, out=at.qkv_BQ)
            self._attend(layer, at, angles)
            self._project(layer, "o", at.o, out=at.delta_BD)
            self._norm(layer.norm2_D, at, into=at.h2.x_TI)
            self._project(layer, "gate_up", at.h2, out=at.gate_up_BJ)
            gate_BI, up_BI = at.gate_up_BJ.chunk(2, dim=1)
            self.kernels.swiglu_forward(gate_BI, up_BI, out=at.z.x_TI)
            self._project(layer, "down", at.z, out=at.delta_BD)
        normed_BD, _, _ = self.kernels.rms_norm_forward(
            at.delta_BD,
            decoder.model.norm.weight,
            eps=a.rms_norm_epsilon,
            residual_TD=at.hidden_BD,
        )
        at.logits_BV.copy_(table_product(normed_BD, decoder.head))
        highest_B, likeliest_B = at.logits_BV.max(dim=-1)
        at.likeliest_B.copy_(torch.where(torch.isfinite(highest_B), likeliest_B, -1))

    def _norm(
        self, weight_D: torch.Tensor, at: Buffers, *, into: torch.Tensor, add: bool = True
    ) -> None:
        """Adds up the residual stream and norms it."""
        eps = self.decoder.architecture.rms_norm_epsilon
        if add:
            self.kernels.rms_norm_forward(
                at.delta_BD,
                weight_D,
                eps=eps,
                residual_TD=at.hidden_BD,
                normed_out=into,
                sum_out=at.hidden_BD,
            )
        else:
            self.kernels.rms_norm_forward(at.hidden_BD, weight_D, eps=eps, normed_out=into)

    def _project(
        self, layer: FusedLayer, name: GroupName, inputs: InputBuffer, *, out: torch.Tensor
    ) -> None:
        self.products.forward(layer, name, inputs, out=out, project=self.adapter)

    def _attend(
        self, layer: FusedLayer, at: Buffers, angles: tuple[torch.Tensor, torch.Tensor]
    ) -> None:
        a, kernels = self.decoder.architecture, _kernels(at.qkv_BQ.device)
        rows = at.qkv_BQ.shape[0]
        qkv_BNK = at.qkv_BQ.view(rows, a.num_heads + 2 * a.num_kv_heads, a.head_dim)
        attention = self.decoder.layers[layer.index].self_attn
        keys, values = self.keys[layer.index][:rows], self.values[layer.index][:rows]
        kernels.store_token(
            qkv_BNK,
            *angles,
            keys,
            values,
            at.length,
            q_norm_K=attention.q_norm.weight if a.qk_norm else None,
            k_norm_K=attention.k_norm.weight if a.qk_norm else None,
            eps=a.rms_norm_epsilon,
        )
        kernels.decode_attention(
            qkv_BNK[:, : a.num_heads], keys, values, at.start_B, at.length, out_BQ=at.o.x_TI
        )


def _kernels(device: torch.device) -> ModuleType:
    if device.type == "cuda" and has_triton():
        from medimind.kernels.decode_attention import forward

        return forward
    from medimind.kernels.decode_attention import reference

    return reference

"""One new token per row, in as few operations as the arithmetic allows.

`Decoder.forward_cached` works on any number of tokens through the layers that training uses. With
one token per row the products are small, and what surrounds them (autograd's bookkeeping, separate
products of neighbouring projections) would cost as much again on a CPU. Here neighbours are one
product over the buffer that they share, and the adapter is two more. In float32 on a CPU the
weights are held once more in a layout made for few rows (``packed_linear``), if the memory allows.

Legend: B rows, D model width, O outputs, R ranks of a joint product together, H query heads,
G key/value heads, Q = H / G, K head width, C columns of the cache, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn.functional import linear, rms_norm, scaled_dot_product_attention, silu

from medimind.models.cache import KvCache
from medimind.models.decoder import Decoder
from medimind.models.layer import Layer
from medimind.models.packed_linear import PackedWeights, packed_weights
from medimind.models.projection import Projection
from medimind.models.rope import rotary_tables


@dataclass(frozen=True, slots=True)
class _Joint:
    """Neighbouring projections as one: ``x W^T + bias + x A^T B^T``, B holding the scaling."""

    product: Callable[[Tensor], Tensor]
    lora_a_RD: Tensor | None
    lora_b_RO: Tensor | None

    def __call__(self, x_BD: Tensor) -> Tensor:
        out_BO = self.product(x_BD)
        if self.lora_a_RD is not None and self.lora_b_RO is not None:
            out_BO.addmm_(linear(x_BD, self.lora_a_RD), self.lora_b_RO)
        return out_BO


@dataclass(frozen=True, slots=True)
class _LayerStep:
    layer: Layer
    qkv: _Joint
    output: _Joint
    gate_up: _Joint
    down: _Joint


class DecodeStep:
    """`Decoder.forward_cached` for one token per row.

    The adapter is taken as it is when this is made.

    Args:
        decoder: A decoder with dense weights.
        layers: Its layers' products.
        head: From hidden states after the final norm to float32 logits.
    """

    def __init__(
        self,
        decoder: Decoder,
        layers: Sequence[_LayerStep],
        head: Callable[[Tensor], Tensor],
    ) -> None:
        self._decoder = decoder
        self._layers = layers
        self._head = head

    @classmethod
    def of(cls, decoder: Decoder) -> DecodeStep | None:
        """The step of this decoder; ``None`` where its weights are not dense, side by side."""
        packed = packed_weights(decoder)
        layers = []
        for layer in decoder.layers:
            attention, mlp = layer.self_attn, layer.mlp
            joints = [
                _join(projections, packed)
                for projections in (
                    (attention.q_proj, attention.k_proj, attention.v_proj),
                    (attention.o_proj,),
                    (mlp.gate_proj, mlp.up_proj),
                    (mlp.down_proj,),
                )
            ]
            found = [joint for joint in joints if joint is not None]
            if len(found) < len(joints):
                return None
            layers.append(_LayerStep(layer, *found))
        table = decoder.head
        head = packed.product(table, None) if isinstance(table, Tensor) else None
        return cls(decoder, layers, head or decoder.logits)

    def logits(self, hidden_BD: Tensor) -> Tensor:
        """float32 logits (B, V) of hidden states after the final norm."""
        return self._head(hidden_BD)

    def __call__(self, token_ids_B: Tensor, *, cache: KvCache) -> Tensor:
        """Hidden states (B, D) after the final norm; the cache takes the tokens."""
        decoder = self._decoder
        decoder.check_length(cache.length + 1)
        hidden_BD = decoder.embed(token_ids_B)
        position_ids_B = cache.position_ids(1)[:, 0]
        cos_BK, sin_BK = rotary_tables(
            position_ids_B, decoder.inverse_frequency, dtype=decoder.dtype
        )
        half = cos_BK.shape[-1] // 2
        cos_B1K, sin_B1K2 = cos_BK[:, None], sin_BK[:, None, :half]
        mask = cache.attention_mask(1)
        if mask is not None:
            # Made a number once here, or each layer would.
            zero = torch.zeros((), dtype=decoder.dtype, device=mask.device)
            mask = torch.where(mask, zero, float("-inf"))
        for step in self._layers:
            hidden_BD = _layer(step, hidden_BD, cos_B1K, sin_B1K2, mask, cache)
        cache.advance(1)
        return decoder.final_norm(hidden_BD)


def _layer(
    step: _LayerStep,
    hidden_BD: Tensor,
    cos_B1K: Tensor,
    sin_B1K2: Tensor,
    mask: Tensor | None,
    cache: KvCache,
) -> Tensor:
    layer, a = step.layer, step.layer.architecture
    attention, width, eps = layer.self_attn, (a.hidden_size,), a.rms_norm_epsilon
    rows, num_rotated = hidden_BD.shape[0], a.num_heads + a.num_kv_heads
    qkv_BNK = step.qkv(rms_norm(hidden_BD, width, layer.input_layernorm.weight, eps)).view(
        rows, num_rotated + a.num_kv_heads, a.head_dim
    )
    qk_BNK, v_BGK = qkv_BNK[:, :num_rotated], qkv_BNK[:, num_rotated:]
    if a.qk_norm:
        head = (a.head_dim,)
        q_BHK = rms_norm(qk_BNK[:, : a.num_heads], head, attention.q_norm.weight, eps)
        k_BGK = rms_norm(qk_BNK[:, a.num_heads :], head, attention.k_norm.weight, eps)
        qk_BNK = torch.cat((q_BHK, k_BGK), dim=1)
    half = a.head_dim // 2
    turned_BNK = qk_BNK * cos_B1K
    turned_BNK[..., :half].addcmul_(qk_BNK[..., half:], sin_B1K2, value=-1)
    turned_BNK[..., half:].addcmul_(qk_BNK[..., :half], sin_B1K2)
    keys_BGCK, values_BGCK = cache.append(
        layer.index, turned_BNK[:, a.num_heads :, None], v_BGK[:, :, None]
    )
    # The query heads of a group become queries of its one key head: nothing is copied.
    q_BGQK = turned_BNK[:, : a.num_heads].unflatten(1, (a.num_kv_heads, -1))
    out_BGQK = scaled_dot_product_attention(q_BGQK, keys_BGCK, values_BGCK, attn_mask=mask)
    hidden_BD = hidden_BD + step.output(out_BGQK.reshape(rows, -1))
    x_BD = rms_norm(hidden_BD, width, layer.post_attention_layernorm.weight, eps)
    gate_up_BI = step.gate_up(x_BD)
    gate_BI, up_BI = gate_up_BI.chunk(2, dim=-1)
    return hidden_BD.add_(step.down(silu(gate_BI).mul_(up_BI)))


def _join(projections: Sequence[Projection], packed: PackedWeights) -> _Joint | None:
    """One product for projections whose weights lie one after the other."""
    weights = [projection.weight for projection in projections]
    biases = [projection.bias for projection in projections]
    joined = _adjacent([weight for weight in weights if weight is not None])
    if joined is None or any(weight is None for weight in weights):
        return None
    present = [bias for bias in biases if bias is not None]
    bias = torch.cat([b.data for b in present]) if present else None
    product = packed.product(joined, bias) or partial(linear, weight=joined, bias=bias)
    return _Joint(product, *_joined_adapters(projections, dtype=joined.dtype))


def _adjacent(weights: Sequence[Tensor]) -> Tensor | None:
    """A view of matrices of one width that share a buffer without a gap."""
    if not weights:
        return None
    first = weights[0].data
    end = first.data_ptr()
    for weight in weights:
        same = weight.untyped_storage().data_ptr() == first.untyped_storage().data_ptr()
        if not same or weight.data_ptr() != end or not weight.is_contiguous():
            return None
        end += weight.numel() * weight.element_size()
    rows = sum(weight.shape[0] for weight in weights)
    return first.as_strided((rows, first.shape[1]), first.stride())


def _joined_adapters(
    projections: Sequence[Projection], *, dtype: torch.dtype
) -> tuple[Tensor | None, Tensor | None]:
    """A matrices below each other (R, D) and scaled B matrices on a diagonal (R, O)."""
    parts_a, starts, rank, outputs = [], [], 0, 0
    for projection in projections:
        if projection.has_adapter and projection.lora_a is not None:
            parts_a.append(projection.lora_a.data.to(dtype))
            starts.append((projection, rank, outputs))
            rank += projection.lora_a.shape[0]
        outputs += projection.out_features
    if not parts_a:
        return None, None
    b_RO = torch.zeros(rank, outputs, dtype=dtype, device=parts_a[0].device)
    for projection, row, column in starts:
        if projection.lora_b is not None:
            update_RO = projection.lora_b.data.t() * projection.scaling
            block = b_RO[row : row + update_RO.shape[0], column : column + update_RO.shape[1]]
            block.copy_(update_RO)
    return torch.cat(parts_a), b_RO

"""Prompts read in fp8, where the user asks for it: frozen weights in e4m3, a scale for each row.

Reading prompts is arithmetic, and fp8 tensor cores do twice as much of it. Outputs change a little:
a product is off by about 4 % of its norm (``benchmarks/fp8_prompts.py`` counts changed answers).
Norms, attention, adapters and the cache stay in the compute dtype, and so does every new token.

``T`` packed tokens, ``N`` prompts, ``D`` model width, ``I`` inputs and ``O`` outputs of a group,
``E`` columns for adapters and bias, ``L`` layers, ``K`` head width.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from medimind.kernels.attention import varlen_attention
from medimind.kernels.lora_linear.forward import project_down
from medimind.kernels.rms_norm import add_rms_norm, rms_norm
from medimind.kernels.rotary import apply_rotary
from medimind.kernels.swiglu import swiglu
from medimind.models.cache import KvCache
from medimind.models.decoder import Decoder
from medimind.models.fused.fp8_weights import (
    E4M3,
    Fp8Weights,
    fp8_weights,
    multiply,
    quantize_group,
)
from medimind.models.fused.group import GROUP_NAMES, FusedLayer, GroupName
from medimind.models.fused.weights import AdapterColumns
from medimind.models.rope import rotary_tables


class Fp8Prompts:
    """The layers in fp8, for prompts.

    Args:
        decoder: The model.
        layers: Its layers as joined groups, with adapters bound.
    """

    def __init__(self, decoder: Decoder, layers: Sequence[FusedLayer]) -> None:
        self.decoder = decoder
        self.layers = layers
        self.columns = AdapterColumns(layers, dtype=decoder.dtype, device=decoder.device)
        self.weights: dict[GroupName, Fp8Weights] = {}
        for name in GROUP_NAMES:
            group = layers[0].groups[name]
            shape = (group.num_outputs, group.num_inputs)
            self.weights[name] = fp8_weights(layers, *shape, device=decoder.device)
            place = {"dtype": decoder.dtype, "device": decoder.device}
            quantize_group(layers, name, by_outputs=self.weights[name], **place)

    @torch.no_grad()
    def hidden_states(
        self,
        token_ids_T: torch.Tensor,
        position_ids_T: torch.Tensor,
        *,
        cu_seqlens: torch.Tensor,
        max_seqlen: int,
        cache: KvCache,
        picked_N: torch.Tensor,
        adapter: bool,
    ) -> torch.Tensor:
        """As ``Decoder.hidden_states``: of the picked tokens, before the final norm.

        Args:
            token_ids_T: int64.
            position_ids_T: int64.
            cu_seqlens: int32 offsets of the prompts.
            max_seqlen: The longest.
            cache: Takes keys and values.
            picked_N: Tokens whose hidden states are wanted.
            adapter: Whether the adapter is on.
        """
        decoder, a = self.decoder, self.decoder.architecture
        decoder.check_length(max_seqlen)
        if adapter:
            self.columns.refresh()
        hidden_TD = decoder.embed(token_ids_T)
        delta_TD = torch.zeros_like(hidden_TD)
        angles = rotary_tables(position_ids_T, decoder.inverse_frequency, dtype=decoder.dtype)
        eps, heads = a.rms_norm_epsilon, a.num_heads
        for layer in self.layers:
            x_TD, hidden_TD = add_rms_norm(delta_TD, hidden_TD, layer.norm1_D, eps=eps)
            qkv_TO = self._product(layer, "qkv", x_TD, adapter=adapter)
            qkv_TNK = qkv_TO.view(len(x_TD), heads + 2 * a.num_kv_heads, a.head_dim)
            q_THK, k_TGK, v_TGK = qkv_TNK.split((heads, a.num_kv_heads, a.num_kv_heads), dim=1)
            if a.qk_norm:
                attention = decoder.layers[layer.index].self_attn
                q_THK = rms_norm(q_THK.contiguous(), attention.q_norm.weight, eps=eps)
                k_TGK = rms_norm(k_TGK.contiguous(), attention.k_norm.weight, eps=eps)
            q_THK, k_TGK = apply_rotary(q_THK, k_TGK, *angles)
            cache.append_packed(layer.index, k_TGK, v_TGK)
            out_THK = varlen_attention(
                q_THK, k_TGK, v_TGK, cu_seqlens=cu_seqlens, max_seqlen=max_seqlen
            )
            if layer is self.layers[-1]:
                out_THK, hidden_TD = out_THK[picked_N], hidden_TD[picked_N]
            out_TD = out_THK.reshape(len(hidden_TD), -1)
            delta_TD = self._product(layer, "o", out_TD, adapter=adapter)
            x_TD, hidden_TD = add_rms_norm(delta_TD, hidden_TD, layer.norm2_D, eps=eps)
            gate_up = self._product(layer, "gate_up", x_TD, adapter=adapter).chunk(2, dim=1)
            delta_TD = self._product(layer, "down", swiglu(*gate_up), adapter=adapter)
        cache.advance()
        return hidden_TD + delta_TD

    def _product(
        self, layer: FusedLayer, name: GroupName, x_TI: torch.Tensor, *, adapter: bool
    ) -> torch.Tensor:
        group, update = layer.groups[name], None
        if group.num_columns and (adapter or group.bias_column is not None):
            inputs = group.split_buffer(x_TI)
            if adapter:
                project_down(inputs, group.a_EI)
            update = inputs.t_TE, self.columns.buffers[name][layer.index]
        rows, device = len(x_TI), x_TI.device
        return multiply(
            x_TI,
            self.weights[name],
            layer,
            update=update,
            values_TI=torch.empty(x_TI.shape, dtype=E4M3, device=device),
            scales_T=torch.empty(rows, dtype=torch.float32, device=device),
            out=torch.empty(rows, group.num_outputs, dtype=x_TI.dtype, device=device),
        )

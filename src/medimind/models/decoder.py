"""The decoder: Llama, Mistral, Qwen2 and Qwen3 by one table of families.

Parameter names are Hugging Face's. Shapes: ``T`` packed tokens, ``B`` rows, ``S`` new tokens of a
row, ``C`` columns of the cache, ``D`` model width, ``H`` query heads, ``G`` key/value heads, ``K``
width of a head, ``I`` width of the MLP, ``V`` vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import nn

from medimind.errors import CheckpointError
from medimind.kernels.attention import varlen_attention
from medimind.kernels.embedding import gather_rows
from medimind.kernels.int8 import Int8Weight, Table, table_product
from medimind.kernels.nf4 import Nf4Weight
from medimind.kernels.rms_norm import rms_norm
from medimind.models.architecture import Architecture
from medimind.models.cache import KvCache
from medimind.models.layer import Attend, Layer, TableWeight, Weight
from medimind.models.lora import LoraSpec
from medimind.models.projection import Projection
from medimind.models.rope import inverse_frequencies, rotary_tables
from medimind.models.workspace import Workspace

Offsets = Sequence[int] | torch.Tensor | np.ndarray


class Backbone(nn.Module):
    """Embedding, layers and final norm, under the name ``model``."""

    def __init__(
        self,
        a: Architecture,
        *,
        dtype: torch.dtype,
        device: torch.device,
        layer_device: torch.device,
        dense_tables: bool,
    ) -> None:
        super().__init__()
        self.embed_tokens = TableWeight(
            a.vocab_size, a.hidden_size, dtype=dtype, device=device, dense=dense_tables
        )
        self.layers = nn.ModuleList(
            Layer(a, index, dtype=dtype, device=layer_device) for index in range(a.num_layers)
        )
        self.norm = Weight(a.hidden_size, dtype=dtype, device=device)


class Decoder(nn.Module):
    """A decoder whose base weights are frozen, filled in place tensor by tensor.

    Args:
        architecture: Its shape and constants.
        dtype: Compute dtype of the base weights and the hidden states.
        device: Where they lie.
        allocate_layers: Make room for all layers now; else `allocate_layer` does for each, so that
            a layer can be filled and quantised before the next one takes memory.
        dense_tables: Make room for embedding and head; without, they come through ``load_int8``.
    """

    def __init__(
        self,
        architecture: Architecture,
        *,
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        allocate_layers: bool = True,
        dense_tables: bool = True,
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.dtype = dtype
        self.device = torch.device(device)
        self.lora: LoraSpec | None = None
        self.model = Backbone(
            architecture,
            dtype=dtype,
            device=self.device,
            layer_device=self.device if allocate_layers else torch.device("meta"),
            dense_tables=dense_tables,
        )
        if not architecture.tied_head:
            self.lm_head = TableWeight(
                architecture.vocab_size,
                architecture.hidden_size,
                dtype=dtype,
                device=self.device,
                dense=dense_tables,
            )
        self.inverse_frequency = inverse_frequencies(
            architecture.head_dim,
            theta=architecture.rope_theta,
            scaling=architecture.rope_scaling,
        ).to(self.device)
        self._base = {n: p for n, p in self.named_parameters() if ".lora_" not in n}
        self._missing = set(self._base)
        self.spare_workspaces: list[Workspace] = []
        self.generation: object | None = None  # what generation keeps between calls

    def borrow_workspace(self) -> Workspace:
        """Buffers for one pass, until ``return_workspace`` or for good."""
        if self.spare_workspaces:
            return self.spare_workspaces.pop()
        return Workspace(dtype=self.dtype, device=self.device)

    def return_workspace(self, workspace: Workspace) -> None:
        """Let the next pass have these buffers."""
        self.spare_workspaces.append(workspace)

    @property
    def embedding(self) -> Table:
        """The embedding, dense or in 8 bits; lean training moves it to host memory."""
        return self.model.embed_tokens.table

    @property
    def head(self) -> Table:
        """The head, dense or in 8 bits; the embedding where it is tied."""
        return self.embedding if self.architecture.tied_head else self.lm_head.table

    def tables(self) -> Iterator[tuple[str, TableWeight]]:
        """Embedding and untied head, by their weights' names."""
        yield "model.embed_tokens.weight", self.model.embed_tokens
        if not self.architecture.tied_head:
            yield "lm_head.weight", self.lm_head

    def quantize_tables(self) -> None:
        """Hold embedding and head in 8 bits (dequantised once on a CPU)."""
        for _, table in self.tables():
            table.quantize_int8()

    @property
    def layers(self) -> list[Layer]:
        """The decoder layers."""
        return [layer for layer in self.model.layers if isinstance(layer, Layer)]

    def projections(self) -> Iterator[tuple[str, Projection]]:
        """``("model.layers.0.self_attn.q_proj", projection)`` and so on."""
        for index, layer in enumerate(self.layers):
            for name, projection in layer.projections():
                yield f"model.layers.{index}.{name}", projection

    def tensor_shapes(self) -> dict[str, tuple[int, ...]]:
        """Names and shapes of the base tensors that a checkpoint must bring."""
        return {name: tuple(parameter.shape) for name, parameter in self._base.items()}

    def missing_tensors(self) -> list[str]:
        """Base tensors that were not filled yet."""
        return sorted(self._missing)

    @torch.no_grad()
    def load_tensor(self, name: str, tensor: torch.Tensor) -> None:
        """Fill one base tensor in place, cast to the compute dtype.

        Raises:
            CheckpointError: The decoder has no such tensor, or it has another shape.
        """
        parameter = self._base.get(name)
        if parameter is None:
            raise CheckpointError(
                f"the checkpoint brings a tensor '{name}' that this architecture does not have",
                fix="Check that config.json and the weights belong together",
            )
        if parameter.shape != tensor.shape:
            raise CheckpointError(
                f"the tensor '{name}' has shape {tuple(tensor.shape)}, "
                f"the architecture says {tuple(parameter.shape)}",
                fix="Check that config.json and the weights belong together",
            )
        if parameter.data_ptr() != tensor.data_ptr():  # else it was read into its place
            parameter.data.copy_(tensor)
        self._missing.discard(name)

    def load_nf4(self, name: str, weight: Nf4Weight) -> None:
        """Let a projection's weight be held in NF4, instead of ``load_tensor``."""
        projection = self.get_submodule(name.removesuffix(".weight"))
        assert isinstance(projection, Projection)
        projection.hold_nf4(weight)
        self._missing.discard(name)

    def load_int8(self, name: str, table: Int8Weight) -> None:
        """Let embedding or head be held in 8 bits, instead of ``load_tensor``."""
        dict(self.tables())[name].hold(table)
        self._missing.discard(name)

    def allocate_layer(self, index: int, *, dense: bool = True) -> Layer:
        """Make room for one layer's tensors, which are to be filled next.

        Args:
            index: The layer.
            dense: Whether its projections need room; without, they come through ``load_nf4``.
        """
        layer = Layer(self.architecture, index, dtype=self.dtype, device=self.device, dense=dense)
        if not dense:
            layer.release_joined()
        self.model.layers[index] = layer
        prefix = f"model.layers.{index}."
        self._base |= {prefix + name: weight for name, weight in layer.named_parameters()}
        return layer

    def quantize_nf4(self, *, double_quantization: bool = True) -> None:
        """Hold the weights of all projections in NF4 (dequantised once on a CPU)."""
        for layer in self.layers:
            layer.quantize_nf4(double_quantization=double_quantization)

    def logits(self, hidden_TD: torch.Tensor) -> torch.Tensor:
        """float32 logits ``(..., V)`` of hidden states after the final norm."""
        flat_TD = hidden_TD.reshape(-1, hidden_TD.shape[-1])
        return table_product(flat_TD, self.head).float().view(*hidden_TD.shape[:-1], -1)

    def embed(self, token_ids_T: torch.Tensor) -> torch.Tensor:
        """Rows of the embedding, wherever it lies."""
        shape = (token_ids_T.numel(), self.embedding.shape[1])
        rows_TD = torch.empty(shape, dtype=self.dtype, device=token_ids_T.device)
        gather_rows(self.embedding, token_ids_T.reshape(-1), out=rows_TD)
        return rows_TD.view(*token_ids_T.shape, -1)

    def final_norm(self, hidden_TD: torch.Tensor) -> torch.Tensor:
        """Hidden states after the final norm."""
        eps = self.architecture.rms_norm_epsilon
        return rms_norm(hidden_TD, self.model.norm.weight, eps=eps)

    def forward(
        self,
        token_ids_T: torch.Tensor,
        position_ids_T: torch.Tensor,
        *,
        cu_seqlens: Offsets,
        max_seqlen: int,
        cache: KvCache | None = None,
    ) -> torch.Tensor:
        """Hidden states ``(T, D)`` after the final norm, of sequences laid end to end.

        Args:
            token_ids_T: int64.
            position_ids_T: int64; count from 0 within each sequence.
            cu_seqlens: Offsets of the sequences, ``N + 1``.
            max_seqlen: Longest sequence.
            cache: Takes the keys and values of all layers, for generation to go on from.
        """
        hidden_TD = self.hidden_states(
            token_ids_T,
            position_ids_T,
            cu_seqlens=cu_seqlens,
            max_seqlen=max_seqlen,
            cache=cache,
        )
        return self.final_norm(hidden_TD)

    def hidden_states(
        self,
        token_ids_T: torch.Tensor,
        position_ids_T: torch.Tensor,
        *,
        cu_seqlens: Offsets,
        max_seqlen: int,
        cache: KvCache | None = None,
        picked_N: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """As ``forward``, before the final norm; with ``picked_N`` of these tokens only."""
        self.check_length(max_seqlen)
        offsets = torch.as_tensor(cu_seqlens, dtype=torch.int32)

        def attend(
            layer: int, q_THK: torch.Tensor, k_TGK: torch.Tensor, v_TGK: torch.Tensor
        ) -> torch.Tensor:
            if cache is not None:
                cache.append_packed(layer, k_TGK, v_TGK)
            return varlen_attention(q_THK, k_TGK, v_TGK, cu_seqlens=offsets, max_seqlen=max_seqlen)

        hidden_TD = self._run(token_ids_T, position_ids_T, attend, picked_N=picked_N)
        if cache is not None:
            cache.advance()
        return hidden_TD

    @torch.no_grad()
    def forward_cached(
        self,
        token_ids_BS: torch.Tensor,
        *,
        cache: KvCache,
        position_ids_BS: torch.Tensor | None = None,
        mask_B1SC: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states ``(B, S, D)`` after the final norm, of the next tokens of each row.

        Args:
            token_ids_BS: int64; what follows the tokens in the cache.
            cache: Keys and values so far; takes the new ones.
            position_ids_BS: Where the new tokens are not one text: the position of each.
            mask_B1SC: And which columns each looks at; the caller has checked their length.
        """
        num_new = token_ids_BS.shape[1]
        if mask_B1SC is None:
            self.check_length(cache.length + num_new)
            mask_B1SC = cache.attention_mask(num_new)
        if position_ids_BS is None:
            position_ids_BS = cache.position_ids(num_new)
        group = self.architecture.num_heads // self.architecture.num_kv_heads
        if mask_B1SC is not None:
            mask_B1SC = mask_B1SC.repeat_interleave(group, dim=2)

        def attend(
            layer: int, q_BSHK: torch.Tensor, k_BSGK: torch.Tensor, v_BSGK: torch.Tensor
        ) -> torch.Tensor:
            k_BGCK, v_BGCK = cache.append(layer, k_BSGK.transpose(1, 2), v_BSGK.transpose(1, 2))
            rows, _, heads, width = q_BSHK.shape
            # The query heads of a group become queries of its one key head: nothing is copied.
            q_BGSMK = q_BSHK.view(rows, num_new, heads // group, group, width).transpose(1, 2)
            q_BGQK = q_BGSMK.reshape(rows, heads // group, num_new * group, width)
            out_BGQK = torch.nn.functional.scaled_dot_product_attention(
                q_BGQK, k_BGCK, v_BGCK, attn_mask=mask_B1SC
            )
            out = out_BGQK.view(rows, heads // group, num_new, group, width).transpose(1, 2)
            return out.reshape(rows, num_new, heads, width)

        hidden_BSD = self._run(token_ids_BS, position_ids_BS, attend)
        cache.advance(num_new)
        return self.final_norm(hidden_BSD)

    def _run(
        self,
        token_ids_T: torch.Tensor,
        position_ids_T: torch.Tensor,
        attend: Attend,
        *,
        picked_N: torch.Tensor | None = None,
    ) -> torch.Tensor:
        hidden_TD = self.embed(token_ids_T)
        cos_TK, sin_TK = rotary_tables(position_ids_T, self.inverse_frequency, dtype=self.dtype)
        *layers, last = self.layers
        for layer in layers:
            hidden_TD = layer(hidden_TD, cos_TK, sin_TK, attend)
        return last(hidden_TD, cos_TK, sin_TK, attend, picked_N=picked_N)

    def check_length(self, length: int) -> None:
        """Refuse a sequence that is longer than the attention window.

        Raises:
            CheckpointError: It is.
        """
        window = self.architecture.sliding_window
        if window is not None and length > window:
            raise CheckpointError(
                f"a sequence of {length} tokens is longer than this model's attention window "
                f"({window})",
                fix=f"Set train.max_length and evaluation.decoding to at most {window} tokens",
            )

"""One decoder layer, its weights and its arithmetic, by Hugging Face's parameter names.

``T`` packed tokens, ``D`` model width, ``H`` query heads, ``G`` key/value heads, ``K`` width of a
head.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import nn

from medimind.kernels.int8 import Int8Weight, Table, dequantize_int8, quantize_int8
from medimind.kernels.rms_norm import add_rms_norm, rms_norm
from medimind.kernels.rotary import apply_rotary
from medimind.kernels.swiglu import swiglu
from medimind.models.architecture import PROJECTIONS, Architecture
from medimind.models.projection import Projection

Attend = Callable[[int, torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Joined = tuple[torch.Tensor, torch.Tensor | None]


class Weight(nn.Module):
    """A frozen tensor under the name ``weight``."""

    def __init__(self, *shape: int, dtype: torch.dtype, device: torch.device) -> None:
        super().__init__()
        self.weight = nn.Parameter(
            torch.empty(shape, dtype=dtype, device=device), requires_grad=False
        )


class TableWeight(nn.Module):
    """A frozen table of the vocabulary: dense under the name ``weight``, or in 8 bits.

    Without ``dense`` it has a shape but no memory: it comes through ``hold``.
    """

    weight: nn.Parameter | None

    def __init__(
        self, *shape: int, dtype: torch.dtype, device: torch.device, dense: bool = True
    ) -> None:
        super().__init__()
        values = torch.empty(shape if dense else (), dtype=dtype, device=device).expand(shape)
        self.weight = nn.Parameter(values, requires_grad=False)
        self.int8: Int8Weight | None = None

    @property
    def table(self) -> Table:
        """The table as it is held."""
        if self.int8 is not None:
            return self.int8
        if self.weight is None:
            raise AssertionError("the table was let go")
        return self.weight.data

    @torch.no_grad()
    def quantize_int8(self) -> None:
        """Hold the table in 8 bits; on a CPU the quantised values are written back, once."""
        if self.weight is None:
            return
        found = quantize_int8(self.weight.data)
        if self.weight.device.type == "cpu":
            self.weight.data.copy_(dequantize_int8(found, dtype=self.weight.dtype))
        else:
            self.hold(found)

    def hold(self, table: Int8Weight) -> None:
        """Take a table in 8 bits instead of the dense one."""
        self.int8 = table
        if self.weight is not None:
            # The decoder knows the parameter by name and shape; only its memory goes.
            self.weight.data = self.weight.data.new_empty(1).expand(self.weight.shape)
            self.weight = None

    def move_to_host(self) -> None:
        """Hold the rows in pinned host memory; scales of rows stay where they are."""
        if self.int8 is not None:
            values_VD = self.int8.values_VD.cpu().pin_memory()
            self.int8 = Int8Weight(values_VD, self.int8.scale_V, self.int8.dtype)
        elif self.weight is not None:
            self.weight.data = self.weight.data.cpu().pin_memory()


def _joined(
    outputs: int, width: int, *, bias: bool, dense: bool, dtype: torch.dtype, device: torch.device
) -> Joined:
    """A weight and a bias that several projections share, each its own rows.

    Without ``dense`` the weight has a shape but no memory: it comes in NF4.
    """
    if dense:
        weight_OD = torch.empty(outputs, width, dtype=dtype, device=device)
    else:
        weight_OD = torch.empty((), dtype=dtype, device=device).expand(outputs, width)
    return weight_OD, torch.empty(outputs, dtype=dtype, device=device) if bias else None


def _split(joined: Joined, sizes: Sequence[int], *, index: int) -> list[Projection]:
    """Projections of these many rows each; the first is the decoder's projection ``index``."""
    weight_OD, bias_O = joined
    biases = [None] * len(sizes) if bias_O is None else bias_O.split(list(sizes))
    return [
        Projection(weight, bias, index=index + i)
        for i, (weight, bias) in enumerate(zip(weight_OD.split(list(sizes)), biases, strict=True))
    ]


class Attention(nn.Module):
    """Projections of the attention block; the arithmetic is in ``Layer``."""

    def __init__(
        self,
        a: Architecture,
        index: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        dense: bool = True,
    ) -> None:
        super().__init__()
        q, kv = a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim
        place: dict[str, Any] = {"dtype": dtype, "device": device, "dense": dense}
        first = index * len(PROJECTIONS)
        self.joined_qkv = _joined(q + 2 * kv, a.hidden_size, bias=a.qkv_bias, **place)
        self.joined_output = _joined(a.hidden_size, q, bias=a.output_bias, **place)
        self.q_proj, self.k_proj, self.v_proj = _split(self.joined_qkv, (q, kv, kv), index=first)
        (self.o_proj,) = _split(self.joined_output, (a.hidden_size,), index=first + 3)
        if a.qk_norm:
            self.q_norm = Weight(a.head_dim, dtype=dtype, device=device)
            self.k_norm = Weight(a.head_dim, dtype=dtype, device=device)

    def release_joined(self) -> None:
        """Give back the dense buffers, once NF4 holds the weights."""
        del self.joined_qkv, self.joined_output


class Mlp(nn.Module):
    """Projections of the gated MLP."""

    def __init__(
        self,
        a: Architecture,
        index: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        dense: bool = True,
    ) -> None:
        super().__init__()
        wide = a.intermediate_size
        place: dict[str, Any] = {"dtype": dtype, "device": device, "dense": dense}
        first = index * len(PROJECTIONS) + 4
        self.joined_gate_up = _joined(2 * wide, a.hidden_size, bias=a.mlp_bias, **place)
        self.joined_down = _joined(a.hidden_size, wide, bias=a.mlp_bias, **place)
        self.gate_proj, self.up_proj = _split(self.joined_gate_up, (wide, wide), index=first)
        (self.down_proj,) = _split(self.joined_down, (a.hidden_size,), index=first + 2)

    def release_joined(self) -> None:
        """Give back the dense buffers, once NF4 holds the weights."""
        del self.joined_gate_up, self.joined_down


class Layer(nn.Module):
    """One decoder layer: attention and gated MLP, each after a norm and added to its input."""

    def __init__(
        self,
        a: Architecture,
        index: int,
        *,
        dtype: torch.dtype,
        device: torch.device,
        dense: bool = True,
    ) -> None:
        super().__init__()
        self.architecture = a
        self.index = index
        self.self_attn = Attention(a, index, dtype=dtype, device=device, dense=dense)
        self.mlp = Mlp(a, index, dtype=dtype, device=device, dense=dense)
        self.input_layernorm = Weight(a.hidden_size, dtype=dtype, device=device)
        self.post_attention_layernorm = Weight(a.hidden_size, dtype=dtype, device=device)

    def projections(self) -> Iterator[tuple[str, Projection]]:
        """``("self_attn.q_proj", projection)`` and so on, in a fixed order."""
        for block in ("self_attn", "mlp"):
            for name, module in getattr(self, block).named_children():
                if isinstance(module, Projection):
                    yield f"{block}.{name}", module

    def quantize_nf4(self, *, double_quantization: bool = True) -> None:
        """Hold the weights of all projections in NF4."""
        for _, projection in self.projections():
            projection.quantize_nf4(double_quantization=double_quantization)
        if self.self_attn.o_proj.weight is None:
            self.release_joined()

    def release_joined(self) -> None:
        """Give back the dense buffers of all projections."""
        self.self_attn.release_joined()
        self.mlp.release_joined()

    def forward(
        self,
        hidden_TD: torch.Tensor,
        cos_TK: torch.Tensor,
        sin_TK: torch.Tensor,
        attend: Attend,
        *,
        picked_N: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Hidden states after this layer; any leading shape that ``cos_TK`` has too.

        With ``picked_N`` those of these tokens alone: after the attention the others are left out.
        """
        a, attention, mlp = self.architecture, self.self_attn, self.mlp
        lead, eps = hidden_TD.shape[:-1], a.rms_norm_epsilon
        x_TD = rms_norm(hidden_TD, self.input_layernorm.weight, eps=eps)
        q_THK = attention.q_proj(x_TD).view(*lead, a.num_heads, a.head_dim)
        k_TGK = attention.k_proj(x_TD).view(*lead, a.num_kv_heads, a.head_dim)
        v_TGK = attention.v_proj(x_TD).view(*lead, a.num_kv_heads, a.head_dim)
        if a.qk_norm:
            q_THK = rms_norm(q_THK, attention.q_norm.weight, eps=eps)
            k_TGK = rms_norm(k_TGK, attention.k_norm.weight, eps=eps)
        q_THK, k_TGK = apply_rotary(q_THK, k_TGK, cos_TK, sin_TK)
        out_THK = attend(self.index, q_THK, k_TGK, v_TGK)
        if picked_N is not None:
            out_THK, hidden_TD = out_THK[picked_N], hidden_TD[picked_N]
        x_TD = attention.o_proj(out_THK.reshape(*hidden_TD.shape[:-1], a.num_heads * a.head_dim))
        x_TD, hidden_TD = add_rms_norm(
            x_TD, hidden_TD, self.post_attention_layernorm.weight, eps=eps
        )
        return hidden_TD + mlp.down_proj(swiglu(mlp.gate_proj(x_TD), mlp.up_proj(x_TD)))

"""Causal attention within segments by the fastest backend, with what its backward needs.

| backend      | segments      | where                        | forward + backward of the 8B's 32  |
|              |               |                              | layers, 2 x 2048 tokens, H100      |
|--------------|---------------|------------------------------|------------------------------------|
| flash4_loose | any           | Hopper, head width 128,      | 18.6 ms; sums in any order         |
|              |               | flash-attn-4 is installed    |                                    |
| flash4       | any           | the same                     | 21.7                               |
| cudnn        | equal lengths | CUDA, compute capability 9+  | 20.4; sums in any order            |
| tiled        | any           | Hopper, head width 64 or 128 | 30.4                               |
| flash        | any           | CUDA 8+, 16 bit              | 49; two rows of unlike lengths     |
| efficient    | any           | CUDA, 16 and 32 bit (Turing) |                                    |
| reference    | any           | everywhere                   |                                    |

FlashAttention-4 is an option (``pip install 'medimind[hopper]'``), taken where it was faster
(``benchmarks/results/gpu_attention.json``), which is a matter of the segments' length.

``T`` tokens, ``H`` query heads, ``G`` key/value heads, ``K`` head width. All are graph-capturable
but the reference, whose segment offsets must be known to the host.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import torch

from medimind.kernels.attention.reference import attention_reference
from medimind.kernels.availability import has_flash4, has_triton

Backend = Literal[
    "flash4",
    "flash4_loose",
    "cudnn",
    "tiled",
    "flash",
    "efficient",
    "reference",
]

FLASH4_FROM = 1024.0
"""Tokens of the mean segment from which flash4 is faster than the tiles (4 % slower at 804, 10 %
faster at 1,024, 29 % at 2,048), and in any order than cuDNN (7 % slower at 512, 2 % faster at
1,024, 9 % at 2,048)."""
FLASH4_LOOSE_FROM = 768.0
"""The same in any order against the tiles, where cuDNN can't be had (7 % faster at 804)."""


@dataclass(frozen=True, slots=True)
class Segments:
    """How the tokens are divided.

    Attributes:
        cu_seqlens: int32 offsets on the tokens' device; empty segments at the end are fine.
        max_seqlen: No segment is longer.
        equal: Number of segments when all have the same length, else ``None``.
        offsets: The offsets on the host, for the reference.
    """

    cu_seqlens: torch.Tensor
    max_seqlen: int
    equal: int | None
    offsets: tuple[int, ...]


def choose_backend(
    device: torch.device,
    dtype: torch.dtype,
    *,
    head_dim: int,
    equal: bool,
    deterministic: bool = False,
    mean_length: float = 0.0,
    training: bool = True,
) -> Backend:
    """The fastest backend that can do it (the table above).

    Args:
        device: Of the tokens.
        dtype: Of the tokens.
        head_dim: K.
        equal: Whether all segments have one length.
        deterministic: Whether gradients are to be summed in a fixed order.
        mean_length: Of the segments that tokens are in (``length_by_token``); 0 when unknown.
        training: Whether gradients are wanted; without, nothing is compiled.
    """
    rule = partial(
        backend_for,
        torch.cuda.get_device_capability(device) if device.type == "cuda" else None,
        dtype,
        head_dim=head_dim,
        equal=equal,
        deterministic=deterministic,
        mean_length=mean_length,
        training=training,
        triton=has_triton(),
    )
    wanted = rule(flash4=True)
    if wanted in ("flash4", "flash4_loose"):  # loading it takes seconds: only where it is wanted
        from medimind.kernels.attention.flash4 import loads

        return wanted if has_flash4() and loads() else rule(flash4=False)
    return wanted


def length_by_token(lengths: Sequence[int]) -> float:
    """Tokens of the segment that a token is in, on average: what attention takes, by the token."""
    return sum(n * n for n in lengths) / max(1, sum(lengths))


def backend_for(
    capability: tuple[int, int] | None,
    dtype: torch.dtype,
    *,
    head_dim: int,
    equal: bool,
    deterministic: bool = False,
    mean_length: float = 0.0,
    training: bool = True,
    triton: bool,
    flash4: bool = False,
) -> Backend:
    """The rule of ``choose_backend``, for a card that need not be here.

    Args:
        capability: CUDA compute capability; ``None`` off CUDA.
        dtype: Of the tokens.
        head_dim: K.
        equal: Whether all segments have one length.
        deterministic: Whether gradients are to be summed in a fixed order.
        mean_length: Of the segments that tokens are in.
        training: Whether gradients are wanted; without, nothing is compiled.
        triton: Whether kernels can be compiled there.
        flash4: Whether FlashAttention-4 can be used there.
    """
    if capability is None:
        return "reference"
    half = dtype in (torch.bfloat16, torch.float16)
    flash4 = flash4 and half and training and capability[0] == 9 and head_dim == 128
    loose = not deterministic
    if flash4 and mean_length >= (FLASH4_LOOSE_FROM if loose and not equal else FLASH4_FROM):
        return "flash4_loose" if loose else "flash4"
    fits_cudnn = half and capability >= (9, 0) and head_dim % 8 == 0 and head_dim <= 128
    if equal and fits_cudnn and (loose or not training):
        return "cudnn"
    if half and training and capability[0] == 9 and head_dim in (64, 128) and triton:
        return "tiled"
    if half and capability >= (8, 0) and head_dim % 8 == 0 and head_dim <= 256:
        return "flash"
    if dtype != torch.float64 and head_dim % 8 == 0:
        return "efficient"
    return "reference"


def attention_forward(
    q_THK: torch.Tensor,
    k_TGK: torch.Tensor,
    v_TGK: torch.Tensor,
    segments: Segments,
    *,
    backend: Backend,
) -> tuple[torch.Tensor, tuple[Any, ...]]:
    """``out_THK`` (contiguous) and what ``attention_backward`` needs beside it."""
    if backend == "cudnn":
        return _cudnn_forward(q_THK, k_TGK, v_TGK, segments)
    if backend in ("flash4", "flash4_loose"):
        from medimind.kernels.attention.flash4 import flash4_forward

        out_THK, lse = flash4_forward(q_THK, k_TGK, v_TGK, segments)
        return out_THK, (lse,)
    if backend == "tiled":
        from medimind.kernels.attention.tiled import tiled_forward

        offsets, longest = segments.cu_seqlens, segments.max_seqlen
        out_THK, lse_HT = tiled_forward(q_THK, k_TGK, v_TGK, cu_seqlens=offsets, longest=longest)
        return out_THK, (lse_HT,)
    if backend == "flash":
        out_THK, lse, rng, unused, _ = torch.ops.aten._flash_attention_forward(
            q_THK,
            k_TGK,
            v_TGK,
            segments.cu_seqlens,
            segments.cu_seqlens,
            segments.max_seqlen,
            segments.max_seqlen,
            0.0,
            True,
            False,
        )
        return out_THK, (lse, rng, unused)
    if backend == "efficient":
        out_1THK, lse, seed, offset, longest_q, longest_k = (
            torch.ops.aten._efficient_attention_forward(
                q_THK[None],
                expand_heads(k_TGK, q_THK.shape[1])[None],
                expand_heads(v_TGK, q_THK.shape[1])[None],
                None,
                segments.cu_seqlens,
                segments.cu_seqlens,
                segments.max_seqlen,
                segments.max_seqlen,
                0.0,
                1,
                True,
            )
        )
        return out_1THK[0], (lse, seed, offset, longest_q, longest_k)
    return attention_reference(q_THK, k_TGK, v_TGK, offsets=segments.offsets), ()


def batched(x_THK: torch.Tensor, num_segments: int) -> torch.Tensor:
    """``(B, heads, S, K)`` view of equal segments."""
    num_tokens, heads, width = x_THK.shape
    length = num_tokens // num_segments
    stride_t, stride_h, stride_k = x_THK.stride()
    return x_THK.as_strided(
        (num_segments, heads, length, width), (length * stride_t, stride_h, stride_t, stride_k)
    )


def expand_heads(x_TGK: torch.Tensor, num_heads: int) -> torch.Tensor:
    """Each key/value head repeated for the query heads it serves."""
    group = num_heads // x_TGK.shape[1]
    return x_TGK if group == 1 else x_TGK.repeat_interleave(group, dim=1)


def _cudnn_forward(
    q_THK: torch.Tensor, k_TGK: torch.Tensor, v_TGK: torch.Tensor, segments: Segments
) -> tuple[torch.Tensor, tuple[Any, ...]]:
    assert segments.equal is not None
    q, k, v = (batched(x, segments.equal) for x in (q_THK, k_TGK, v_TGK))
    result = torch.ops.aten._scaled_dot_product_cudnn_attention(q, k, v, None, True, 0.0, True)
    out_BHSK = result[0]
    # A view where cuDNN laid the output out like the queries, as it does.
    out_THK = out_BHSK.transpose(1, 2).reshape(q_THK.shape)
    return out_THK, tuple(result[1:8])

"""Keys and values of packed prompts to their rows and columns of a cache, in one Triton launch.

Bytes moved: keys and values read once and written once.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl


@triton.jit
def _store_kernel(
    keys_ptr,
    values_ptr,
    row_ptr,
    column_ptr,
    key_cache_ptr,
    value_cache_ptr,
    key_stride_t,
    key_stride_g,
    value_stride_t,
    value_stride_g,
    cache_stride_b,
    cache_stride_g,
    num_heads,
    width,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    token = tl.program_id(0).to(tl.int64)
    head = tl.arange(0, HEADS)[:, None]
    place = tl.arange(0, WIDTH)[None, :]
    inside = (head < num_heads) & (place < width)
    target = tl.load(row_ptr + token) * cache_stride_b + tl.load(column_ptr + token) * width
    target += head * cache_stride_g + place
    key = tl.load(keys_ptr + token * key_stride_t + head * key_stride_g + place, mask=inside)
    tl.store(key_cache_ptr + target, key, mask=inside)
    value = tl.load(
        values_ptr + token * value_stride_t + head * value_stride_g + place, mask=inside
    )
    tl.store(value_cache_ptr + target, value, mask=inside)


def store_prompts(
    keys_TGK: torch.Tensor,
    values_TGK: torch.Tensor,
    row_T: torch.Tensor,
    column_T: torch.Tensor,
    key_cache_BGCK: torch.Tensor,
    value_cache_BGCK: torch.Tensor,
) -> None:
    """``cache[row_T, :, column_T] = x_TGK`` for keys and values.

    Args:
        keys_TGK: The values of a head lie side by side.
        values_TGK: Likewise.
        row_T: int64.
        column_T: int64.
        key_cache_BGCK: Contiguous but for its first dimension.
        value_cache_BGCK: Of the same strides.
    """
    num_tokens, num_heads, width = keys_TGK.shape
    launch: Any = _store_kernel[(num_tokens,)]
    launch(
        keys_TGK,
        values_TGK,
        row_T,
        column_T,
        key_cache_BGCK,
        value_cache_BGCK,
        keys_TGK.stride(0),
        keys_TGK.stride(1),
        values_TGK.stride(0),
        values_TGK.stride(1),
        key_cache_BGCK.stride(0),
        key_cache_BGCK.stride(1),
        num_heads,
        width,
        HEADS=triton.next_power_of_2(num_heads),
        WIDTH=triton.next_power_of_2(width),
        num_warps=4,
    )

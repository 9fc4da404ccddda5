"""One new token per row: heads normed and turned, key and value stored, attention over the cache.

The length lies on the device, so that one captured graph serves every step. ``B`` rows, ``H`` query
heads, ``G`` key/value heads, ``N = H + 2 G``, ``K`` head width, ``C`` columns of the cache. A row
looks at the columns from its start to the newest one:

```
column   0  1  2  3 | 4        length 5: the new token goes to column 4
row 0    a  b  c  d | e        start 0
row 1    -  -  p  q | r        start 2
```
"""

from __future__ import annotations

import torch


def attend_token(
    qkv_BNK: torch.Tensor,
    cos_PK: torch.Tensor,
    sin_PK: torch.Tensor,
    keys_BGCK: torch.Tensor,
    values_BGCK: torch.Tensor,
    start_B: torch.Tensor,
    length: torch.Tensor,
    *,
    out_BQ: torch.Tensor,
    q_norm_K: torch.Tensor | None = None,
    k_norm_K: torch.Tensor | None = None,
    eps: float = 0.0,
    parts_SBQ: torch.Tensor | None = None,
    pdl: bool = False,
) -> None:
    """Turns queries and keys, stores key and value in column ``length - 1``, and attends.

    Args:
        qkv_BNK: Queries, keys and values, head by head.
        cos_PK: Cosines of all positions.
        sin_PK: Sines.
        keys_BGCK: Cache of keys.
        values_BGCK: Cache of values.
        start_B: int64; each row's first column.
        length: int32 scalar; columns in use, the new one included.
        out_BQ: ``softmax(q k^T / sqrt(K)) v``, ``(B, H * K)``; its rows may be apart.
        q_norm_K: Weight of the RMSNorm of each query head; ``None`` for none.
        k_norm_K: Likewise of key heads.
        eps: Of the norms.
        parts_SBQ: fp32; ``qkv_BNK`` is their sum, which is not computed yet.
        pdl: Let the launch begin while the one before ends (Triton only).
    """
    if parts_SBQ is not None:
        qkv_BNK = parts_SBQ.sum(dim=0).view(qkv_BNK.shape).to(qkv_BNK.dtype)
    num_kv = keys_BGCK.shape[1]
    num_heads = qkv_BNK.shape[1] - 2 * num_kv
    column = int(length) - 1
    cos_BK, sin_BK = cos_PK[column - start_B], sin_PK[column - start_B]
    q = _turn(_normed(qkv_BNK[:, :num_heads], q_norm_K, eps), cos_BK, sin_BK)
    k = qkv_BNK[:, num_heads : num_heads + num_kv]
    keys_BGCK[:, :, column] = _turn(_normed(k, k_norm_K, eps), cos_BK, sin_BK).to(keys_BGCK.dtype)
    values_BGCK[:, :, column] = qkv_BNK[:, num_heads + num_kv :]
    _attend(q.to(qkv_BNK.dtype), keys_BGCK, values_BGCK, start_B, column + 1, out_BQ=out_BQ)


def _attend(
    q_BHK: torch.Tensor,
    keys_BGCK: torch.Tensor,
    values_BGCK: torch.Tensor,
    start_B: torch.Tensor,
    end: int,
    *,
    out_BQ: torch.Tensor,
) -> None:
    rows, num_heads, width = q_BHK.shape
    group = num_heads // keys_BGCK.shape[1]
    wide = torch.promote_types(q_BHK.dtype, torch.float32)
    keys, values = (
        x[:, :, :end].to(wide).repeat_interleave(group, dim=1) for x in (keys_BGCK, values_BGCK)
    )
    scores_BHC = torch.einsum("bhk,bhck->bhc", q_BHK.to(wide), keys) * width**-0.5
    hidden_BC = torch.arange(end, device=q_BHK.device) < start_B[:, None]
    weights = scores_BHC.masked_fill(hidden_BC[:, None], -torch.inf).softmax(dim=-1)
    out = torch.einsum("bhc,bhck->bhk", weights, values)
    out_BQ.copy_(out.reshape(rows, -1))


def _normed(x_BHK: torch.Tensor, weight_K: torch.Tensor | None, eps: float) -> torch.Tensor:
    wide = x_BHK.to(torch.promote_types(x_BHK.dtype, torch.float32))
    if weight_K is None:
        return wide
    normed = wide * torch.rsqrt(wide.square().mean(dim=-1, keepdim=True) + eps)
    # Rounded before and after the gain, as the checkpoints' own code does.
    return (normed.to(x_BHK.dtype).to(wide.dtype) * weight_K).to(x_BHK.dtype).to(wide.dtype)


def _turn(x_BHK: torch.Tensor, cos_BK: torch.Tensor, sin_BK: torch.Tensor) -> torch.Tensor:
    half = x_BHK.shape[-1] // 2
    cos, sin = (x[:, None, :half].to(x_BHK.dtype) for x in (cos_BK, sin_BK))
    first, second = x_BHK[..., :half], x_BHK[..., half:]
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)

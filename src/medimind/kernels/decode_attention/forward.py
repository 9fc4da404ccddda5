"""Attention of one new token per row in Triton, split over the columns of the cache.

One program takes the query heads of one key/value head of a row, and one of ``NUM_SPLITS`` equal
stretches of the columns in use (Dao et al., "Flash-Decoding", 2023); a second launch joins the
stretches. Each turns its queries itself; that of the last stretch also turns and stores the new key
and value, which it takes from registers. The columns in use are read on the device, so launches are
the same at every step.

Bytes moved: keys and values once.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

COLUMNS, WARPS, STAGES = 32, 2, 2
PROGRAMS = 528
"""Enough programs to fill the largest card's multiprocessors four times."""


@triton.jit
def _load(qkv_ptr, parts_ptr, place, inside, parts_stride, NUM_PARTS: tl.constexpr) -> tl.tensor:
    """Values of the new token, fp32 but rounded; added up where they come in parts."""
    if NUM_PARTS == 0:
        value = tl.load(qkv_ptr + place, mask=inside, other=0.0).to(tl.float32)
    else:
        total = tl.load(parts_ptr + place, mask=inside, other=0.0)
        for part in tl.static_range(1, NUM_PARTS):  # pyright: ignore[reportGeneralTypeIssues]
            total += tl.load(parts_ptr + part * parts_stride + place, mask=inside, other=0.0)
        value = total.to(qkv_ptr.dtype.element_ty).to(tl.float32)
    return value


@triton.jit
def _turned(
    first, second, gain_ptr, cos, sin, at, inside, width, eps, kind, NORM: tl.constexpr
) -> tuple[tl.tensor, tl.tensor]:
    """Both halves of heads ``(N, HALF)``, normed and turned, in the dtype of the cache."""
    if NORM:
        total = tl.sum(first * first, axis=1) + tl.sum(second * second, axis=1)
        rstd = (1.0 / tl.sqrt(total / width + eps))[:, None]
        gain1 = tl.load(gain_ptr + at, mask=inside, other=0.0).to(tl.float32)[None, :]
        gain2 = tl.load(gain_ptr + width // 2 + at, mask=inside, other=0.0).to(tl.float32)[None, :]
        # Rounded before and after the gain, as the checkpoints' own code does.
        first = ((first * rstd).to(kind).to(tl.float32) * gain1).to(kind).to(tl.float32)
        second = ((second * rstd).to(kind).to(tl.float32) * gain2).to(kind).to(tl.float32)
    return (first * cos - second * sin).to(kind), (second * cos + first * sin).to(kind)


@triton.jit
def _look(
    keys_ptr,
    values_ptr,
    begin,
    last,
    query1,
    query2,
    peak,
    mass,
    total,
    width,
    scale,
    at,
    at_ok,
    place,
    place_ok,
    COLUMNS: tl.constexpr,
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """``peak``, ``mass`` and ``total`` of a softmax after ``COLUMNS`` more columns."""
    column = begin + tl.arange(0, COLUMNS)
    column_ok = column < last
    row = column.to(tl.int64)[:, None] * width
    inside = column_ok[:, None] & at_ok[None, :]
    key1 = tl.load(keys_ptr + row + at[None, :], mask=inside, other=0.0)
    key2 = tl.load(keys_ptr + row + width // 2 + at[None, :], mask=inside, other=0.0)
    inside = column_ok[:, None] & place_ok[None, :]
    value = tl.load(values_ptr + row + place[None, :], mask=inside, other=0.0)
    scores = tl.dot(query1, tl.trans(key1), input_precision="ieee")
    scores = tl.dot(query2, tl.trans(key2), scores, input_precision="ieee") * scale
    scores = tl.where(column_ok[None, :], scores, -1e30)
    higher = tl.maximum(peak, tl.max(scores, axis=1))
    shrink = tl.exp(peak - higher)
    share = tl.exp(scores - higher[:, None])
    mass = mass * shrink + tl.sum(share, axis=1)
    total = total * shrink[:, None]
    total = tl.dot(share.to(value.dtype), value, total, input_precision="ieee")
    return higher, mass, total


@triton.jit
def _attend_kernel(
    qkv_ptr,
    parts_ptr,
    cos_ptr,
    sin_ptr,
    keys_ptr,
    values_ptr,
    start_ptr,
    length_ptr,
    q_norm_ptr,
    k_norm_ptr,
    out_ptr,
    partial_ptr,
    qkv_stride,
    parts_stride,
    out_stride,
    cache_stride_b,
    cache_stride_g,
    width,
    scale,
    eps,
    NUM_KV: tl.constexpr,
    GROUP: tl.constexpr,
    HEADS: tl.constexpr,
    HALF: tl.constexpr,
    WIDTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    NUM_PARTS: tl.constexpr,
    NORM: tl.constexpr,
    PIPELINED: tl.constexpr,
    PDL: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    kv = tl.program_id(1)
    split = tl.program_id(2)
    length = tl.load(length_ptr)
    start = tl.load(start_ptr + row).to(tl.int32)
    kind = keys_ptr.dtype.element_ty
    half = width // 2
    at = tl.arange(0, HALF)
    at_ok = at < half
    position = (length - 1 - start).to(tl.int64) * width
    cos = tl.load(cos_ptr + position + at, mask=at_ok, other=0.0).to(tl.float32)[None, :]
    sin = tl.load(sin_ptr + position + at, mask=at_ok, other=0.0).to(tl.float32)[None, :]
    head = tl.arange(0, HEADS)
    head_ok = head < GROUP
    place = tl.arange(0, WIDTH)
    place_ok = place < width
    stretch = tl.cdiv(tl.cdiv(length - start, NUM_SPLITS), COLUMNS) * COLUMNS
    begin = start + split * stretch
    is_last = (begin < length) & (begin + stretch >= length)
    # The newest column comes from registers.
    last = tl.minimum(begin + stretch, length - 1)
    base = row * cache_stride_b + kv * cache_stride_g
    if PDL:
        gdc_launch_dependents()
        gdc_wait()
    own = row * qkv_stride
    q_at = own + (kv * GROUP + head)[:, None] * width + at[None, :]
    q_ok = head_ok[:, None] & at_ok[None, :]
    first = _load(qkv_ptr, parts_ptr, q_at, q_ok, parts_stride, NUM_PARTS)
    second = _load(qkv_ptr, parts_ptr, q_at + half, q_ok, parts_stride, NUM_PARTS)
    query1, query2 = _turned(first, second, q_norm_ptr, cos, sin, at, at_ok, width, eps, kind, NORM)
    k_at = own + (NUM_KV * GROUP + kv) * width + at[None, :]
    first = _load(qkv_ptr, parts_ptr, k_at, at_ok[None, :], parts_stride, NUM_PARTS)
    second = _load(qkv_ptr, parts_ptr, k_at + half, at_ok[None, :], parts_stride, NUM_PARTS)
    new_key1, new_key2 = _turned(
        first, second, k_norm_ptr, cos, sin, at, at_ok, width, eps, kind, NORM
    )
    v_at = own + (NUM_KV * GROUP + NUM_KV + kv) * width + place[None, :]
    new_value = _load(qkv_ptr, parts_ptr, v_at, place_ok[None, :], parts_stride, NUM_PARTS)
    new = base + (length - 1).to(tl.int64) * width
    tl.store(keys_ptr + new + at[None, :], new_key1, mask=at_ok[None, :] & is_last)
    tl.store(keys_ptr + new + half + at[None, :], new_key2, mask=at_ok[None, :] & is_last)
    tl.store(
        values_ptr + new + place[None, :], new_value.to(kind), mask=place_ok[None, :] & is_last
    )
    score = tl.sum(query1.to(tl.float32) * new_key1.to(tl.float32), axis=1)
    score += tl.sum(query2.to(tl.float32) * new_key2.to(tl.float32), axis=1)
    peak = tl.where(is_last, score * scale, -1e30)
    mass = tl.where(is_last, 1.0, 0.0) + tl.zeros((HEADS,), dtype=tl.float32)
    total = tl.where(is_last, new_value, 0.0) + tl.zeros((HEADS, WIDTH), dtype=tl.float32)
    if PIPELINED:
        for first_column in tl.range(begin, last, COLUMNS):
            peak, mass, total = _look(
                keys_ptr + base,
                values_ptr + base,
                first_column,
                last,
                query1,
                query2,
                peak,
                mass,
                total,
                width,
                scale,
                at,
                at_ok,
                place,
                place_ok,
                COLUMNS,
            )
    else:
        while begin < last:  # the interpreter has no range() up to a loaded scalar
            peak, mass, total = _look(
                keys_ptr + base,
                values_ptr + base,
                begin,
                last,
                query1,
                query2,
                peak,
                mass,
                total,
                width,
                scale,
                at,
                at_ok,
                place,
                place_ok,
                COLUMNS,
            )
            begin += COLUMNS
    if NUM_SPLITS == 1:
        out = total / mass[:, None]
        place_out = (kv * GROUP + head)[:, None] * width + place[None, :]
        tl.store(
            out_ptr + row * out_stride + place_out,
            out.to(out_ptr.dtype.element_ty),
            mask=head_ok[:, None] & place_ok[None, :],
        )
    else:
        one = (row * NUM_KV + kv) * NUM_SPLITS + split
        target = partial_ptr + (one * HEADS + head) * (WIDTH + 2)
        tl.store(target[:, None] + place[None, :], total)
        tl.store(target + WIDTH, peak)
        tl.store(target + WIDTH + 1, mass)


@triton.jit
def _join_kernel(
    partial_ptr,
    out_ptr,
    out_stride,
    width,
    NUM_KV: tl.constexpr,
    GROUP: tl.constexpr,
    HEADS: tl.constexpr,
    WIDTH: tl.constexpr,
    NUM_SPLITS: tl.constexpr,
    SPLITS: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    split = tl.arange(0, SPLITS)
    place = tl.arange(0, WIDTH)
    split_ok = split < NUM_SPLITS
    one = (row * NUM_KV + head // GROUP) * NUM_SPLITS + split
    source = partial_ptr + (one * HEADS + head % GROUP) * (WIDTH + 2)
    peak = tl.load(source + WIDTH, mask=split_ok, other=-1e30)
    mass = tl.load(source + WIDTH + 1, mask=split_ok, other=0.0)
    share = tl.exp(peak - tl.max(peak, axis=0))
    total = tl.load(source[:, None] + place[None, :], mask=split_ok[:, None], other=0.0)
    out = tl.sum(total * share[:, None], axis=0) / tl.sum(mass * share, axis=0)
    target = out_ptr + row * out_stride + head * width + place
    tl.store(target, out.to(out_ptr.dtype.element_ty), mask=place < width)


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
    """As ``reference.attend_token``; a row's heads lie side by side."""
    rows, num_all, width = qkv_BNK.shape
    num_kv, capacity = keys_BGCK.shape[1:3]
    group = num_all // num_kv - 2
    heads = max(16, 1 << (group - 1).bit_length())
    padded = max(16, 1 << (width - 1).bit_length())
    most = -(-capacity // (2 * COLUMNS))
    num_splits = max(1, min(most, PROGRAMS // (rows * num_kv)))
    partial = out_BQ
    if num_splits > 1:
        size = rows * num_kv * num_splits * heads * (padded + 2)
        partial = torch.empty(size, dtype=torch.float32, device=qkv_BNK.device)
    _attend_kernel[(rows, num_kv, num_splits)](
        qkv_BNK,
        qkv_BNK if parts_SBQ is None else parts_SBQ,
        cos_PK,
        sin_PK,
        keys_BGCK,
        values_BGCK,
        start_B,
        length,
        qkv_BNK if q_norm_K is None else q_norm_K,
        qkv_BNK if k_norm_K is None else k_norm_K,
        out_BQ,
        partial,
        qkv_BNK.stride(0),
        0 if parts_SBQ is None else parts_SBQ.stride(0),
        out_BQ.stride(0),
        keys_BGCK.stride(0),
        keys_BGCK.stride(1),
        width,
        width**-0.5,
        eps,
        NUM_KV=num_kv,
        GROUP=group,
        HEADS=heads,
        HALF=max(16, triton.next_power_of_2(width // 2)),
        WIDTH=padded,
        COLUMNS=COLUMNS,  # pyright: ignore[reportArgumentType]
        NUM_SPLITS=num_splits,
        NUM_PARTS=0 if parts_SBQ is None else len(parts_SBQ),
        NORM=q_norm_K is not None,
        PIPELINED=qkv_BNK.is_cuda,
        PDL=pdl,
        num_warps=WARPS,  # pyright: ignore[reportCallIssue]
        num_stages=STAGES,  # pyright: ignore[reportCallIssue]
        launch_pdl=pdl,  # pyright: ignore[reportCallIssue]
    )
    if num_splits > 1:
        _join_kernel[(rows, num_all - 2 * num_kv)](
            partial,
            out_BQ,
            out_BQ.stride(0),
            width,
            NUM_KV=num_kv,
            GROUP=group,
            HEADS=heads,
            WIDTH=padded,
            NUM_SPLITS=num_splits,
            SPLITS=triton.next_power_of_2(num_splits),
            num_warps=4,  # pyright: ignore[reportCallIssue]
        )

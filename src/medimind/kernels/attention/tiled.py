"""Causal attention within segments and its gradients, tile by tile, in Triton.

Flash in a fixed order gives one multiprocessor all of a segment's head: rows of 500 to 1,100 tokens
leave most of a Hopper idle. Here each tile of queries and each tile of keys is a program of its
own. Sums stay within a program, so they have one order; what that costs is that scores are made
twice, 7 products where flash has 5. Key/value heads sum over their query heads right away.

``T`` tokens, ``H`` query heads, ``G`` key/value heads, ``K`` head width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from triton.tools.tensor_descriptor import TensorDescriptor

LOG2_E = 1.4426950408889634
_FEWEST_SEGMENTS = 32


@dataclass(frozen=True, slots=True)
class Tiling:
    """How a kernel is run.

    Attributes:
        rows: Of a program's tile.
        step: Rows of the other side at a time.
        warps: Of a program.
        stages: Steps that are loaded ahead.
    """

    rows: int
    step: int
    warps: int
    stages: int

    def options(self, longest: int, *, on_card: bool) -> dict[str, Any]:
        """For the launch; the interpreter's loops end at constants."""
        return {
            "ROWS": self.rows,
            "STEP": self.step,
            "NUM_STEPS": None if on_card else triton.cdiv(longest + self.rows, self.step),
            "STAGES": self.stages,
            "num_warps": self.warps,
        }


FORWARD = Tiling(rows=64, step=64, warps=4, stages=2)
QUERY = Tiling(rows=64, step=64, warps=4, stages=2)
KEY = Tiling(rows=64, step=64, warps=4, stages=2)
"""The fastest of eleven on an H100, eight segments of 577 to 1,127 tokens, 32 heads of 128."""


@triton.jit
def _find_tile(
    cu_seqlens_ptr, num_segments, tile, SEGMENTS: tl.constexpr, ROWS: tl.constexpr
) -> Any:
    """First row of a tile, and begin and end of its segment; nothing past the last tile."""
    index = tl.arange(0, SEGMENTS)
    known = index < num_segments
    begin = tl.load(cu_seqlens_ptr + index, mask=known, other=0)
    end = tl.load(cu_seqlens_ptr + index + 1, mask=known, other=0)
    tiles = (end - begin + ROWS - 1) // ROWS
    before = tl.cumsum(tiles, 0) <= tile
    place = tl.sum(before.to(tl.int32), 0)
    first = tile - tl.sum(tl.where(before, tiles, 0), 0)
    here = index == place
    begin = tl.sum(tl.where(here, begin, 0), 0)
    end = tl.sum(tl.where(here, end, 0), 0)
    return begin + first * ROWS, begin, end


@triton.jit
def _forward_kernel(
    q_ptr,
    k_desc,
    v_desc,
    out_ptr,
    lse_ptr,
    cu_seqlens_ptr,
    num_segments,
    q_stride,
    lse_stride,
    scale,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    SEGMENTS: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    NUM_STEPS: tl.constexpr,
    STAGES: tl.constexpr,
    LOG2_E: tl.constexpr,
) -> None:
    head = tl.program_id(1)
    tile = _find_tile(cu_seqlens_ptr, num_segments, tl.program_id(0), SEGMENTS, ROWS)
    start, begin, end = tile  # pyright: ignore[reportGeneralTypeIssues]
    if start >= end:
        return
    kind = q_ptr.dtype.element_ty
    own = tl.arange(0, ROWS)
    rows = own[:, None]
    column = tl.arange(0, WIDTH)[None, :]
    row = start + own
    inside = (row < end)[:, None]
    first = start.to(tl.int64)
    place = first * q_stride + head * WIDTH + rows * q_stride + column
    q = tl.load(q_ptr + place, mask=inside, other=0.0)
    total = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    peak = tl.full((ROWS,), -1e30, dtype=tl.float32)
    mass = tl.zeros((ROWS,), dtype=tl.float32)
    last = tl.minimum(start + ROWS, end)
    num_steps = (last - begin + STEP - 1) // STEP
    for step in tl.range(0, num_steps if NUM_STEPS is None else NUM_STEPS, num_stages=STAGES):
        other = begin + step * STEP
        # Keys past the segment are the next one's, and no query's: they are behind all of them.
        k = k_desc.load([other, (head // GROUP) * WIDTH])
        v = v_desc.load([other, (head // GROUP) * WIDTH])
        score = tl.dot(q, k.T, input_precision="ieee") * (scale * LOG2_E)
        seen = row[:, None] >= (other + tl.arange(0, STEP))[None, :]
        score = tl.where(seen, score, -1e30)
        higher = tl.maximum(peak, tl.max(score, axis=1))
        weight = tl.where(seen, tl.exp2(score - higher[:, None]), 0.0)
        shrink = tl.exp2(peak - higher)
        mass = mass * shrink + tl.sum(weight, axis=1)
        total = total * shrink[:, None]
        total = tl.dot(weight.to(kind), v, total, input_precision="ieee")
        peak = higher
    place = (first * HEADS + head) * WIDTH + rows * (HEADS * WIDTH) + column
    tl.store(out_ptr + place, (total / mass[:, None]).to(kind), mask=inside)
    lse = (peak + tl.log2(mass)) / LOG2_E
    tl.store(lse_ptr + head * lse_stride + row, lse, mask=row < end)


@triton.jit
def _query_kernel(
    grad_ptr,
    q_ptr,
    k_desc,
    v_desc,
    out_ptr,
    lse_ptr,
    delta_ptr,
    grad_q_ptr,
    cu_seqlens_ptr,
    num_segments,
    grad_stride,
    q_stride,
    out_stride,
    lse_stride,
    scale,
    HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    SEGMENTS: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    NUM_STEPS: tl.constexpr,
    STAGES: tl.constexpr,
    LOG2_E: tl.constexpr,
) -> None:
    head = tl.program_id(1)
    tile = _find_tile(cu_seqlens_ptr, num_segments, tl.program_id(0), SEGMENTS, ROWS)
    start, begin, end = tile  # pyright: ignore[reportGeneralTypeIssues]
    if start >= end:
        return
    kind = q_ptr.dtype.element_ty
    own = tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)[None, :]
    row = start + own
    row_ok = row < end
    inside = row_ok[:, None]
    first, place = start.to(tl.int64), head * WIDTH
    rows = own[:, None]
    q = tl.load(q_ptr + first * q_stride + place + rows * q_stride + column, mask=inside, other=0.0)
    grad = tl.load(
        grad_ptr + first * grad_stride + place + rows * grad_stride + column,
        mask=inside,
        other=0.0,
    )
    out = tl.load(
        out_ptr + first * out_stride + place + rows * out_stride + column, mask=inside, other=0.0
    )
    delta = tl.sum(grad.to(tl.float32) * out.to(tl.float32), axis=1)
    tl.store(delta_ptr + head * lse_stride + row, delta, mask=row_ok)
    lse = tl.load(lse_ptr + head * lse_stride + row, mask=row_ok, other=float("inf")) * LOG2_E
    total = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    last = tl.minimum(start + ROWS, end)
    num_steps = (last - begin + STEP - 1) // STEP
    for step in tl.range(0, num_steps if NUM_STEPS is None else NUM_STEPS, num_stages=STAGES):
        other = begin + step * STEP
        # Keys past the segment are the next one's, and no query's: they are behind all of them.
        k = k_desc.load([other, (head // GROUP) * WIDTH])
        v = v_desc.load([other, (head // GROUP) * WIDTH])
        score = tl.dot(q, k.T, input_precision="ieee") * (scale * LOG2_E)
        weight = tl.exp2(score - lse[:, None])
        weight = tl.where(row[:, None] >= (other + tl.arange(0, STEP))[None, :], weight, 0.0)
        change = tl.dot(grad, v.T, input_precision="ieee")
        change = weight * (change - delta[:, None])
        total = tl.dot(change.to(kind), k, total, input_precision="ieee")
    place = (first * HEADS + head) * WIDTH + rows * (HEADS * WIDTH) + column
    tl.store(grad_q_ptr + place, (total * scale).to(kind), mask=inside)


@triton.jit
def _key_kernel(
    grad_desc,
    q_desc,
    k_ptr,
    v_ptr,
    lse_ptr,
    delta_ptr,
    grad_k_ptr,
    grad_v_ptr,
    cu_seqlens_ptr,
    num_segments,
    k_stride,
    lse_stride,
    scale,
    KV_HEADS: tl.constexpr,
    GROUP: tl.constexpr,
    WIDTH: tl.constexpr,
    SEGMENTS: tl.constexpr,
    ROWS: tl.constexpr,
    STEP: tl.constexpr,
    NUM_STEPS: tl.constexpr,
    STAGES: tl.constexpr,
    LOG2_E: tl.constexpr,
) -> None:
    kv_head = tl.program_id(1)
    tile = _find_tile(cu_seqlens_ptr, num_segments, tl.program_id(0), SEGMENTS, ROWS)
    start, begin, end = tile  # pyright: ignore[reportGeneralTypeIssues]
    if start >= end:
        return
    kind = k_ptr.dtype.element_ty
    own = tl.arange(0, ROWS)
    column = tl.arange(0, WIDTH)[None, :]
    row = start + own
    inside = (row < end)[:, None]
    first = start.to(tl.int64)
    place = first * k_stride + kv_head * WIDTH + own[:, None] * k_stride + column
    k = tl.load(k_ptr + place, mask=inside, other=0.0)
    v = tl.load(v_ptr + place, mask=inside, other=0.0)
    total_k = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    total_v = tl.zeros((ROWS, WIDTH), dtype=tl.float32)
    num_steps = (end - start + STEP - 1) // STEP
    for member in range(0, GROUP):
        head = kv_head * GROUP + member
        for step in tl.range(0, num_steps if NUM_STEPS is None else NUM_STEPS, num_stages=STAGES):
            begin = start + step * STEP
            other = begin + tl.arange(0, STEP)
            ok = other < end
            q = q_desc.load([begin, head * WIDTH])
            grad = grad_desc.load([begin, head * WIDTH])
            # Queries past the segment are the next one's: their weights are 0.
            lse = tl.load(lse_ptr + head * lse_stride + other, mask=ok, other=float("inf"))
            delta = tl.load(delta_ptr + head * lse_stride + other, mask=ok, other=0.0)
            score = tl.dot(k, q.T, input_precision="ieee") * (scale * LOG2_E)
            weight = tl.exp2(score - (lse * LOG2_E)[None, :])
            weight = tl.where(other[None, :] >= row[:, None], weight, 0.0)
            total_v = tl.dot(weight.to(kind), grad, total_v, input_precision="ieee")
            change = tl.dot(v, grad.T, input_precision="ieee")
            change = weight * (change - delta[None, :])
            total_k = tl.dot(change.to(kind), q, total_k, input_precision="ieee")
    place = (first * KV_HEADS + kv_head) * WIDTH + own[:, None] * (KV_HEADS * WIDTH) + column
    tl.store(grad_k_ptr + place, (total_k * scale).to(kind), mask=inside)
    tl.store(grad_v_ptr + place, total_v.to(kind), mask=inside)


def tiled_forward(
    q_THK: torch.Tensor,
    k_TGK: torch.Tensor,
    v_TGK: torch.Tensor,
    *,
    cu_seqlens: torch.Tensor,
    longest: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """The output, and fp32 logarithms ``(H, T)`` of the sums of the exponentials.

    Args:
        q_THK: Heads lie one after the other, tokens may be apart; likewise all others.
        k_TGK: Laid out as ``v_TGK``.
        v_TGK: Values.
        cu_seqlens: int32 offsets of the segments; empty ones at the end are fine.
        longest: No segment is longer.
    """
    num_tokens, heads, width = q_THK.shape
    segments = len(cu_seqlens) - 1
    out_THK = torch.empty(q_THK.shape, dtype=q_THK.dtype, device=q_THK.device)
    lse_HT = torch.empty(heads, num_tokens, dtype=torch.float32, device=q_THK.device)
    _forward_kernel[(num_tokens // FORWARD.rows + segments, heads)](
        q_THK,
        _tokens(k_TGK, FORWARD.step),
        _tokens(v_TGK, FORWARD.step),
        out_THK,
        lse_HT,
        cu_seqlens,
        segments,
        q_THK.stride(0),
        lse_HT.stride(0),
        width**-0.5,
        HEADS=heads,  # pyright: ignore[reportArgumentType]
        GROUP=heads // k_TGK.shape[1],  # pyright: ignore[reportArgumentType]
        WIDTH=width,  # pyright: ignore[reportArgumentType]
        SEGMENTS=_segment_block(segments),  # pyright: ignore[reportArgumentType]
        LOG2_E=LOG2_E,  # pyright: ignore[reportArgumentType]
        **FORWARD.options(longest, on_card=q_THK.is_cuda),
    )
    return out_THK, lse_HT


def tiled_backward(
    grad_THK: torch.Tensor,
    q_THK: torch.Tensor,
    k_TGK: torch.Tensor,
    v_TGK: torch.Tensor,
    out_THK: torch.Tensor,
    lse_HT: torch.Tensor,
    *,
    cu_seqlens: torch.Tensor,
    longest: int,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of q, k and v; the same bits each time.

    Args:
        grad_THK: Gradient of the output.
        q_THK: Heads lie one after the other, tokens may be apart; likewise all others.
        k_TGK: Laid out as ``v_TGK``.
        v_TGK: Values.
        out_THK: The output.
        lse_HT: fp32 logarithms of the sums of the exponentials, contiguous.
        cu_seqlens: int32 offsets of the segments; empty ones at the end are fine.
        longest: No segment is longer.
    """
    num_tokens, heads, width = q_THK.shape
    kv_heads, segments = k_TGK.shape[1], len(cu_seqlens) - 1
    grads = [torch.empty(x.shape, dtype=x.dtype, device=x.device) for x in (q_THK, k_TGK, v_TGK)]
    delta_HT = torch.empty_like(lse_HT)
    shared = {
        "GROUP": heads // kv_heads,
        "WIDTH": width,
        "SEGMENTS": _segment_block(segments),
        "LOG2_E": LOG2_E,
    }

    _query_kernel[(num_tokens // QUERY.rows + segments, heads)](
        grad_THK,
        q_THK,
        _tokens(k_TGK, QUERY.step),
        _tokens(v_TGK, QUERY.step),
        out_THK,
        lse_HT,
        delta_HT,
        grads[0],
        cu_seqlens,
        segments,
        grad_THK.stride(0),
        q_THK.stride(0),
        out_THK.stride(0),
        lse_HT.stride(0),
        width**-0.5,
        HEADS=heads,  # pyright: ignore[reportArgumentType]
        **QUERY.options(longest, on_card=q_THK.is_cuda),
        **shared,
    )
    _key_kernel[(num_tokens // KEY.rows + segments, kv_heads)](
        _tokens(grad_THK, KEY.step),
        _tokens(q_THK, KEY.step),
        k_TGK,
        v_TGK,
        lse_HT,
        delta_HT,
        grads[1],
        grads[2],
        cu_seqlens,
        segments,
        k_TGK.stride(0),
        lse_HT.stride(0),
        width**-0.5,
        KV_HEADS=kv_heads,  # pyright: ignore[reportArgumentType]
        **KEY.options(longest, on_card=q_THK.is_cuda),
        **shared,
    )
    return grads[0], grads[1], grads[2]


def _segment_block(segments: int) -> int:
    """A kernel is compiled for each of these numbers, so there are few of them."""
    return max(_FEWEST_SEGMENTS, 1 << (segments - 1).bit_length())


def _tokens(x_THK: torch.Tensor, step: int) -> TensorDescriptor:
    """``step`` tokens of one head at a time, past the end zeros."""
    num_tokens, heads, width = x_THK.shape
    flat_TC = x_THK.as_strided((num_tokens, heads * width), (x_THK.stride(0), 1))
    return TensorDescriptor.from_tensor(flat_TC, [step, width])

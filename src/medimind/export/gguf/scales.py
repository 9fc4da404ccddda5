"""The search for the scales of K-quants, as llama.cpp publishes it, over many blocks at once.

The functions follow ``make_qkx2_quants``, ``make_qkx3_quants``, ``make_qx_quants`` and
``make_qp_quants`` of llama.cpp's ``ggml-quants.c``. A block's values lie in a column, so that sums
over a block are sums of rows, which numpy adds with vector instructions. Errors of candidates are
computed from sums of products, in float64, where llama.cpp passes over the block once more.

Shapes: ``J`` values of a block (16 or 32), ``N`` blocks, ``S`` superblocks, ``B`` blocks of each.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
_ROUNDING = 1e-5
SMALLEST = np.float32(1e-15)  # llama.cpp's GROUP_MAX_EPS: blocks below it are all zero


def scales_and_minima(
    x_JN: Floats, weight_JN: Floats, *, levels: int, first: float, step: float, steps: int
) -> tuple[Floats, Floats]:
    """Scale and minimum of each block: ``x ~ scale * q - minimum``, q in 0..levels.

    Each step tries another number of levels over the range that is best so far, fits scale and
    minimum to the integers by weighted least squares, and keeps the fit if its error is smaller.

    Args:
        x_JN: The values.
        weight_JN: Weight of each value's squared error.
        levels: Largest integer.
        first: What the first step adds to ``levels``.
        step: What each further step adds to that.
        steps: Number of further steps.

    Returns:
        Scales and minima (both from 0), float32 ``(N,)``.
    """
    low_N = np.minimum(x_JN.min(axis=0), np.float32(0))
    high_N = x_JN.max(axis=0)
    search = _MinimumSearch(x_JN, weight_JN, levels=levels)
    with np.errstate(all="ignore"):  # blocks of one value divide by zero; they are put right below
        is_flat_N = ~(high_N > low_N)
        q_JN = search.integers(low_N, np.float32(levels) / (high_N - low_N))
        sums = search.sums(q_JN)
        scale_N = (1.0 / (np.float32(levels) / (high_N - low_N))).astype(np.float64)
        min_N = low_N.astype(np.float64)
        best_N = search.error(sums, scale_N, min_N)
        for index in range(steps + 1):
            candidate = np.float32(first + step * index + levels)
            q_JN = search.integers(low_N, candidate / (high_N - low_N))
            sums = search.sums(q_JN)
            new_scale_N, new_min_N, is_solvable_N = search.fit(sums)
            error_N = search.error(sums, new_scale_N, new_min_N)
            better_N = is_solvable_N & (error_N < best_N)
            np.copyto(best_N, error_N, where=better_N)
            np.copyto(scale_N, new_scale_N, where=better_N)
            np.copyto(min_N, new_min_N, where=better_N)
            low_N = min_N.astype(np.float32)
    scale_N[is_flat_N] = 0.0
    return scale_N.astype(np.float32), -min_N.astype(np.float32)


class _MinimumSearch:
    """Buffers and constant sums of `scales_and_minima`."""

    def __init__(self, x_JN: Floats, weight_JN: Floats, *, levels: int) -> None:
        self.x_JN, self.weight_JN, self.levels = x_JN, weight_JN, np.float32(levels)
        self.q_JN = np.empty_like(x_JN)
        self.product_JN = np.empty_like(x_JN)
        np.multiply(weight_JN, x_JN, out=self.product_JN)
        self.w_N = weight_JN.sum(axis=0).astype(np.float64)
        self.wx_N = self.product_JN.sum(axis=0).astype(np.float64)
        self.wxx_N = np.multiply(self.product_JN, x_JN, out=self.q_JN).sum(axis=0).astype(float)

    def integers(self, low_N: Floats, inverse_scale_N: Floats) -> Floats:
        """The nearest integer of each value, as float32, in a buffer that is used again."""
        q_JN = np.subtract(self.x_JN, low_N, out=self.q_JN)
        np.multiply(q_JN, inverse_scale_N, out=q_JN)
        np.rint(q_JN, out=q_JN)
        return np.clip(q_JN, np.float32(0), self.levels, out=q_JN)

    def sums(self, q_JN: Floats) -> tuple[NDArray[np.float64], ...]:
        """Weighted sums of q, q squared, and q times x."""
        product_JN = np.multiply(self.weight_JN, q_JN, out=self.product_JN)
        sums = product_JN.sum(axis=0), _dot(product_JN, q_JN), _dot(product_JN, self.x_JN)
        wq_N, wqq_N, wqx_N = (values_N.astype(np.float64) for values_N in sums)
        return wq_N, wqq_N, wqx_N

    def fit(
        self, sums: tuple[NDArray[np.float64], ...]
    ) -> tuple[NDArray[np.float64], NDArray[np.float64], NDArray[np.bool_]]:
        """The scale and minimum of least error for given integers; the minimum at most 0."""
        wq_N, wqq_N, wqx_N = sums
        determinant_N = self.w_N * wqq_N - wq_N * wq_N
        scale_N = (self.w_N * wqx_N - self.wx_N * wq_N) / determinant_N
        min_N = (wqq_N * self.wx_N - wq_N * wqx_N) / determinant_N
        above_N = min_N > 0
        np.copyto(scale_N, wqx_N / wqq_N, where=above_N)
        np.copyto(min_N, 0.0, where=above_N)
        # Where all integers of a block are the same, only the sums' rounding is left.
        return scale_N, min_N, determinant_N > _ROUNDING * self.w_N * wqq_N

    def error(
        self,
        sums: tuple[NDArray[np.float64], ...],
        scale_N: NDArray[np.float64],
        min_N: NDArray[np.float64],
    ) -> NDArray[np.float64]:
        """``sum w (scale q + min - x)^2``, multiplied out."""
        wq_N, wqq_N, wqx_N = sums
        of_scale_N = scale_N * (scale_N * wqq_N + 2.0 * (min_N * wq_N - wqx_N))
        return of_scale_N + min_N * (min_N * self.w_N - 2.0 * self.wx_N) + self.wxx_N


def _dot(a_JN: Floats, b_JN: Floats) -> Floats:
    """Sum over ``J`` of ``a * b``, in one pass."""
    return np.einsum("jn,jn->n", a_JN, b_JN)


def symmetric_scales(x_JN: Floats, weight_JN: Floats | None, *, levels: int) -> Floats:
    """Scale of each block: ``x ~ scale * q``, q in -levels..levels - 1.

    Args:
        x_JN: The values.
        weight_JN: Weight of each value's squared error; the value's own square by default.
        levels: Magnitude of the lowest integer.

    Returns:
        Scales of either sign, float32 ``(N,)``; 0 where a block is all zero.
    """
    largest_N = _largest(x_JN)
    squares_JN = x_JN * x_JN
    weight_JN = squares_JN if weight_JN is None else weight_JN
    weighted_JN = weight_JN * x_JN
    q_JN, product_JN = np.empty_like(x_JN), np.empty_like(x_JN)
    lowest, highest = np.float32(-levels), np.float32(levels - 1)
    scale_N = np.zeros_like(largest_N)
    best_N = np.zeros_like(largest_N)
    with np.errstate(all="ignore"):  # blocks of zeros divide by zero; they are put right below
        for index in (0, *range(-9, 0), *range(1, 10)):
            inverse_N = -np.float32(levels + 0.1 * index) / largest_N
            np.multiply(x_JN, inverse_N, out=q_JN)
            np.rint(q_JN, out=q_JN)
            np.clip(q_JN, lowest, highest, out=q_JN)
            wqx_N = _dot(weighted_JN, q_JN)
            wqq_N = _dot(np.multiply(q_JN, weight_JN, out=product_JN), q_JN)
            better_N = (wqq_N > 0) & (wqx_N * wqx_N > best_N * wqq_N)
            np.copyto(scale_N, wqx_N / wqq_N, where=better_N)
            np.copyto(best_N, scale_N * wqx_N, where=better_N)
    scale_N[np.abs(largest_N) < SMALLEST] = 0.0
    return scale_N


def _largest(x_JN: Floats) -> Floats:
    """The value of largest magnitude of each block, the first where two are equal."""
    low_N, high_N = x_JN.min(axis=0), x_JN.max(axis=0)
    largest_N = np.where(high_N > -low_N, high_N, low_N)
    tied = np.flatnonzero(high_N == -low_N)
    if tied.size:
        columns = x_JN[:, tied]
        largest_N[tied] = columns[np.abs(columns).argmax(axis=0), np.arange(tied.size)]
    return largest_N


def positive_scales(x_SB: Floats, weight_SB: Floats, *, levels: int) -> tuple[Floats, Floats]:
    """One scale for the blocks' scales of each superblock: ``x ~ scale * q``, q in 0..levels.

    Used with an importance matrix: a grid search, then up to five rounds that move one integer at
    a time (``make_qp_quants``).

    Returns:
        Scales ``(S,)`` and integers ``(S, B)``, float32.
    """
    most_S = np.maximum(x_SB.max(axis=1), np.float32(0))
    with np.errstate(all="ignore"):  # superblocks of zeros divide by zero; see below
        inverse_S = np.float32(levels) / most_S
        best_S = _grid_error(x_SB, weight_SB, inverse_S, levels=levels)
        for index in (-4, -3, -2, -1, 1, 2, 3, 4):
            candidate_S = np.float32(0.1 * index + levels) / most_S
            error_S = _grid_error(x_SB, weight_SB, candidate_S, levels=levels)
            better_S = error_S < best_S
            np.copyto(best_S, error_S, where=better_S)
            np.copyto(inverse_S, candidate_S, where=better_S)
        q_SB = np.minimum(np.rint(x_SB * inverse_S[:, None]), np.float32(levels))
        scale_S = _refined(x_SB, weight_SB, q_SB, levels=levels)
    is_zero_S = most_S < SMALLEST
    q_SB[is_zero_S] = 0.0
    scale_S[is_zero_S] = 0.0
    return scale_S, q_SB


def _grid_error(x_SB: Floats, weight_SB: Floats, inverse_S: Floats, *, levels: int) -> Floats:
    q_SB = np.minimum(np.rint(x_SB * inverse_S[:, None]), np.float32(levels))
    difference_SB = x_SB - q_SB / inverse_S[:, None]
    return (weight_SB * difference_SB * difference_SB).sum(axis=1)


def _refined(x_SB: Floats, weight_SB: Floats, q_SB: Floats, *, levels: int) -> Floats:
    """Move integers while that raises the fit; ``q_SB`` changes in place. The fitted scales."""
    wqx_S = (weight_SB * x_SB * q_SB).sum(axis=1)
    wqq_S = (weight_SB * q_SB * q_SB).sum(axis=1)
    for _ in range(5):
        num_changed = 0
        for block in range(x_SB.shape[1]):
            x_S, w_S, q_S = x_SB[:, block], weight_SB[:, block], q_SB[:, block]
            others_qx_S = wqx_S - w_S * x_S * q_S
            others_qq_S = wqq_S - w_S * q_S * q_S
            new_S = np.minimum(np.rint(x_S * others_qq_S / others_qx_S), np.float32(levels))
            new_qx_S = others_qx_S + w_S * x_S * new_S
            new_qq_S = others_qq_S + w_S * new_S * new_S
            better_S = (others_qx_S > 0) & (others_qq_S > 0) & (new_S != q_S)
            better_S &= new_qx_S * new_qx_S * wqq_S > wqx_S * wqx_S * new_qq_S
            num_changed += int(np.count_nonzero(better_S))
            np.copyto(wqx_S, new_qx_S, where=better_S)
            np.copyto(wqq_S, new_qq_S, where=better_S)
            np.copyto(q_SB[:, block], new_S, where=better_S)
        if not num_changed:
            break
    return np.where(wqq_S > 0, wqx_S / wqq_S, np.float32(0))

"""Which rows a training step takes: a pure function of (seed, epoch, position).

Nothing is stored and nothing is advanced, so a resumed run takes exactly the rows the
uninterrupted one would have. Random bits come from Philox (Salmon et al., 2011) keyed by seed and
epoch; only its raw stream is used, which numpy keeps the same between releases.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from medimind.errors import PackingError

_FIXED_STREAM = 2**64 - 1  # the key's second word where it is no epoch
_GOLDEN = (math.sqrt(5) - 1) / 2


def epoch_order(
    epoch: int, *, num_rows: int, seed: int, weights: Sequence[float] | None = None
) -> NDArray[np.int64]:
    """The rows of one epoch (from 0) in their order, each a row index; read-only.

    Without weights every row is there once. A row of weight ``w`` is there ``w`` times, rounded up
    or down so that over the epochs the average is ``w`` (systematic sampling whose offset moves by
    the golden ratio each epoch, so a row of weight 0.5 comes about every second epoch).

    Raises:
        PackingError: If there are no rows, or the weights are not one positive number per row.
    """
    return _epoch_order(epoch, num_rows, seed, None if weights is None else tuple(weights))


def epoch_length(num_rows: int, weights: Sequence[float] | None = None) -> int:
    """Rows of one epoch: ``num_rows``, or the rounded sum of the weights.

    Raises:
        PackingError: If there are no rows, or the weights are not one positive number per row.
    """
    return _epoch_length(num_rows, None if weights is None else tuple(weights))


def step_rows(
    step: int,
    *,
    num_rows: int,
    batch_size: int,
    seed: int,
    weights: Sequence[float] | None = None,
) -> list[int]:
    """The rows of optimizer step ``step`` (from 0).

    The epochs' orders follow each other endlessly; step ``s`` takes positions ``s * batch_size``
    to ``(s + 1) * batch_size`` of them, so a step may hold the end of one epoch and the start of
    the next, and every step holds ``batch_size`` rows.

    Raises:
        PackingError: If there are no rows, or the weights are not one positive number per row.
    """
    key = None if weights is None else tuple(weights)
    length = _epoch_length(num_rows, key)
    position, end = step * batch_size, (step + 1) * batch_size
    rows: list[int] = []
    while position < end:
        epoch, offset = divmod(position, length)
        order = _epoch_order(epoch, num_rows, seed, key)
        taken = order[offset : offset + end - position].tolist()
        rows += taken
        position += len(taken)
    return rows


def num_steps(
    epochs: float, *, num_rows: int, batch_size: int, weights: Sequence[float] | None = None
) -> int:
    """Optimizer steps that cover at least ``epochs`` passes; at least 1."""
    rows = epochs * epoch_length(num_rows, weights)
    return max(1, math.ceil(rows / batch_size - 1e-9))


@lru_cache(maxsize=4)
def _epoch_length(num_rows: int, weights: tuple[float, ...] | None) -> int:
    if num_rows < 1:
        raise PackingError("there are no rows to train on", fix="Look at the data stage's report")
    if weights is None:
        return num_rows
    if len(weights) != num_rows:
        raise PackingError(f"{num_rows} rows have {len(weights)} weights")
    if not all(0 < weight < math.inf for weight in weights):
        raise PackingError(
            "a weight is not a positive number", fix="Give every source a weight above 0"
        )
    return max(1, round(math.fsum(weights)))


@lru_cache(maxsize=4)
def _epoch_order(
    epoch: int, num_rows: int, seed: int, weights: tuple[float, ...] | None
) -> NDArray[np.int64]:
    length = _epoch_length(num_rows, weights)
    if weights is None or weights.count(1.0) == num_rows:
        rows = np.arange(num_rows)
    else:
        rows = _drawn(epoch, length, seed, np.array(weights))
    order = rows[_shuffle(length, seed=seed, stream=epoch)]
    order.setflags(write=False)
    return order


def _drawn(epoch: int, length: int, seed: int, weights: NDArray[np.float64]) -> NDArray[np.int64]:
    """Rows of a weighted epoch: ``length`` evenly spaced points on the weights laid end to end."""
    laid = _shuffle(len(weights), seed=seed, stream=_FIXED_STREAM)
    ends = np.cumsum(weights[laid])
    start = (int(_philox(seed, _FIXED_STREAM).random_raw()) >> 11) * 2.0**-53
    offset = math.fmod(start + epoch * _GOLDEN, 1)
    points = (np.arange(length) + offset) * (ends[-1] / length)
    return laid[np.minimum(np.searchsorted(ends, points, side="right"), len(weights) - 1)]


def _shuffle(num_rows: int, *, seed: int, stream: int) -> NDArray[np.int64]:
    return np.argsort(_philox(seed, stream).random_raw(num_rows), kind="stable")


def _philox(seed: int, stream: int) -> np.random.Philox:
    return np.random.Philox(key=np.array([seed % 2**64, stream], dtype=np.uint64))

"""The order of rows is a pure function of seed, epoch and position."""

from __future__ import annotations

import subprocess
import sys
import time
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medimind.errors import PackingError
from medimind.packing import order
from medimind.packing.order import epoch_length, epoch_order, num_steps, step_rows

GOLDEN = [[4, 1, 2, 3, 0, 5, 6, 7], [2, 6, 4, 5, 0, 1, 7, 3], [0, 0, 1, 2]]
SEEDS = st.integers(0, 2**63)


@given(num_rows=st.integers(1, 200), epoch=st.integers(0, 5), seed=SEEDS)
@settings(deadline=None)
def test_every_row_is_there_once_per_epoch(num_rows: int, epoch: int, seed: int) -> None:
    rows = epoch_order(epoch, num_rows=num_rows, seed=seed)
    assert sorted(rows.tolist()) == list(range(num_rows))


@given(num_rows=st.integers(1, 50), batch_size=st.integers(1, 70), seed=SEEDS)
@settings(deadline=None)
def test_steps_follow_the_epochs_without_gap(num_rows: int, batch_size: int, seed: int) -> None:
    stream = [
        row
        for epoch in range(2 + 5 * batch_size // num_rows)
        for row in epoch_order(epoch, num_rows=num_rows, seed=seed).tolist()
    ]
    for step in range(5):
        rows = step_rows(step, num_rows=num_rows, batch_size=batch_size, seed=seed)
        assert rows == stream[step * batch_size : (step + 1) * batch_size]


def test_any_step_can_be_asked_for_at_any_time() -> None:
    forwards = [step_rows(s, num_rows=37, batch_size=8, seed=3407) for s in range(30)]
    order._epoch_order.cache_clear()
    backwards = [step_rows(s, num_rows=37, batch_size=8, seed=3407) for s in reversed(range(30))]
    assert forwards == backwards[::-1]


def test_the_order_is_fixed_for_good() -> None:
    """Written down: another order would make a resumed run another run."""
    assert epoch_order(0, num_rows=8, seed=3407).tolist() == GOLDEN[0]
    assert epoch_order(1, num_rows=8, seed=3407).tolist() == GOLDEN[1]
    weighted = epoch_order(0, num_rows=4, seed=3407, weights=[2, 1, 1, 0.5])
    assert weighted.tolist() == GOLDEN[2]


def test_another_process_gives_the_same_order() -> None:
    code = (
        "from medimind.packing.order import step_rows\n"
        "print(step_rows(3, num_rows=100, batch_size=8, seed=1, weights=[1.5] * 100))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    here = step_rows(3, num_rows=100, batch_size=8, seed=1, weights=[1.5] * 100)
    assert shown.stdout.strip() == str(here)


def test_seeds_and_epochs_give_other_orders() -> None:
    orders = {
        tuple(epoch_order(epoch, num_rows=50, seed=seed).tolist())
        for epoch in range(10)
        for seed in range(10)
    }
    assert len(orders) == 100


def test_each_row_comes_first_about_equally_often() -> None:
    first = Counter(int(epoch_order(e, num_rows=4, seed=0)[0]) for e in range(4000))
    assert all(abs(first[row] - 1000) < 4 * np.sqrt(750) for row in range(4))


@given(weights=st.lists(st.floats(0.05, 4), min_size=1, max_size=20), seed=st.integers(0, 2**32))
@settings(deadline=None, max_examples=100)
def test_a_row_comes_as_often_as_its_weight_says(weights: list[float], seed: int) -> None:
    length = epoch_length(len(weights), weights)
    assert length == 1 or abs(length - sum(weights)) <= 0.5 + 1e-9  # either, at a half
    scale = length / sum(weights)
    total: Counter[int] = Counter()
    for epoch in range(60):
        rows = epoch_order(epoch, num_rows=len(weights), seed=seed, weights=weights).tolist()
        counts = Counter(rows)
        assert len(rows) == length
        for row, weight in enumerate(weights):
            assert abs(counts[row] - weight * scale) < 1 + 1e-6
        total.update(counts)
    for row, weight in enumerate(weights):
        assert abs(total[row] / 60 - weight * scale) < 0.1


def test_an_epoch_is_as_long_as_its_weights_together() -> None:
    for weights, length in (([0.4], 1), ([1.2, 1.2], 2), ([0.9, 0.8], 2), ([3.0, 0.2], 3)):
        assert epoch_length(len(weights), weights) == length


def test_weights_of_one_are_no_weights() -> None:
    plain = epoch_order(2, num_rows=30, seed=5)
    assert epoch_order(2, num_rows=30, seed=5, weights=[1.0] * 30).tolist() == plain.tolist()
    assert epoch_length(30, [1] * 30) == epoch_length(30) == 30


@pytest.mark.parametrize(
    ("epochs", "num_rows", "batch_size", "weights", "expected"),
    [
        (1, 90, 8, None, 12),
        (2, 90, 8, None, 23),
        (1, 88, 8, None, 11),
        (0.5, 90, 8, None, 6),
        (0.01, 90, 8, None, 1),
        (0.1 * 3, 100, 10, None, 3),
        (1, 3, 2, [2, 2, 2], 3),
    ],
)
def test_steps_cover_the_epochs(
    epochs: float, num_rows: int, batch_size: int, weights: list[float] | None, expected: int
) -> None:
    steps = num_steps(epochs, num_rows=num_rows, batch_size=batch_size, weights=weights)
    assert steps == expected


@pytest.mark.parametrize(
    ("num_rows", "weights", "message"),
    [
        (0, None, "no rows to train on"),
        (3, [1, 2], "3 rows have 2 weights"),
        (2, [1, 0], "not a positive number"),
        (2, [1, -1.0], "not a positive number"),
        (2, [1, float("nan")], "not a positive number"),
        (2, [1, float("inf")], "not a positive number"),
    ],
)
def test_impossible_weights_are_refused(
    num_rows: int, weights: list[float] | None, message: str
) -> None:
    with pytest.raises(PackingError, match=message):
        step_rows(0, num_rows=num_rows, batch_size=2, seed=0, weights=weights)
    with pytest.raises(PackingError, match=message):
        epoch_order(0, num_rows=num_rows, seed=0, weights=weights)


def test_an_order_cannot_be_changed_by_accident() -> None:
    with pytest.raises(ValueError, match="read-only"):
        epoch_order(0, num_rows=3, seed=0)[0] = 1


def test_a_step_of_a_million_rows_is_quick_once_its_epoch_is_known() -> None:
    step_rows(0, num_rows=1_000_000, batch_size=8, seed=0)
    start = time.process_time()
    for step in range(1, 101):
        step_rows(step, num_rows=1_000_000, batch_size=8, seed=0)
    assert time.process_time() - start < 0.1

"""Repeated 4-grams and loops."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medimind.evaluation.repetition import loop_length, repeated_share


def brute_loop(ids: list[int]) -> int:
    """Longest ending of period p, with at least 3 p and 16 tokens, by trying all of them."""
    best = 0
    for length in range(16, len(ids) + 1):
        tail = ids[-length:]
        for period in range(1, length // 3 + 1):
            if all(tail[i] == tail[i + period] for i in range(length - period)):
                best = length
                break
    return best


def test_nothing_repeats() -> None:
    assert repeated_share(range(100)) == 0
    assert loop_length(range(100)) == 0
    assert repeated_share([1, 2, 3]) == 0
    assert loop_length([]) == 0


def test_share_of_a_repeated_half() -> None:
    ids = [*range(20), *range(20)]
    assert repeated_share(ids) == pytest.approx(17 / 37)


def test_loop_at_the_end_with_a_broken_last_unit() -> None:
    ids = [9, 8, 7, *[1, 2, 3, 4, 5] * 4, 1, 2]
    assert loop_length(ids) == 22


def test_short_and_inner_loops_do_not_count() -> None:
    assert loop_length([1, 2] * 7) == 0
    assert loop_length([*[1, 2] * 20, 3, 4]) == 0


def test_one_token_forever() -> None:
    assert loop_length([5] * 300) == 300


@given(st.lists(st.integers(0, 2), max_size=60), st.lists(st.integers(0, 2), max_size=6))
@settings(deadline=None, max_examples=150)
def test_loop_is_the_brute_force_one(start: list[int], unit: list[int]) -> None:
    ids = [*start, *unit * 5]
    assert loop_length(ids) == brute_loop(ids)
    assert 0 <= repeated_share(ids) < 1

"""Packing keeps every token once, labels it rightly, and never mixes cases."""

from __future__ import annotations

import itertools
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rows import prompt_of, prompts_st

from medimind.errors import PackingError
from medimind.packing.batch import IGNORE_INDEX, PackedBatch
from medimind.packing.pack import best_fit_decreasing, pack
from medimind.prompts.prompt import Prompt

CAPACITY = 40


def segments(batch: PackedBatch) -> list[slice]:
    """Where each case lies, padding left out."""
    bounds = batch.cu_seqlens.tolist()
    return [slice(a, b) for a, b in itertools.pairwise(bounds)][: len(batch.case_ids)]


@given(prompts=prompts_st(CAPACITY), pad=st.booleans())
@settings(deadline=None, max_examples=200)
def test_every_token_is_there_once_and_in_its_case(prompts: list[Prompt], pad: bool) -> None:
    batches = pack(prompts, tokens_per_batch=CAPACITY, pad_to=CAPACITY + 3 if pad else None)
    seen = [
        (case_id, batch.token_ids_T[part].tolist())
        for batch in batches
        for case_id, part in zip(batch.case_ids, segments(batch))
    ]
    expected = [(prompt.case_id, prompt.token_ids_S.tolist()) for prompt in prompts]
    assert sorted(seen) == sorted(expected)


@given(prompts=prompts_st(CAPACITY), pad=st.booleans())
@settings(deadline=None, max_examples=200)
def test_a_label_is_the_next_token_of_the_same_case(prompts: list[Prompt], pad: bool) -> None:
    by_id = {prompt.case_id: prompt for prompt in prompts}
    for batch in pack(prompts, tokens_per_batch=CAPACITY, pad_to=CAPACITY if pad else None):
        for case_id, part in zip(batch.case_ids, segments(batch)):
            prompt = by_id[case_id]
            labels_S = batch.labels_T[part].tolist()
            expected = [
                int(token) if is_target else IGNORE_INDEX
                for token, is_target in zip(prompt.token_ids_S[1:], prompt.is_target_S[1:])
            ]
            assert labels_S == [*expected, IGNORE_INDEX]
        assert batch.num_targets == np.count_nonzero(batch.labels_T != IGNORE_INDEX)


@given(prompts=prompts_st(CAPACITY), pad=st.booleans())
@settings(deadline=None, max_examples=200)
def test_positions_restart_and_the_capacity_is_kept(prompts: list[Prompt], pad: bool) -> None:
    for batch in pack(prompts, tokens_per_batch=CAPACITY, pad_to=CAPACITY + 5 if pad else None):
        lengths = np.diff(batch.cu_seqlens)
        assert (lengths > 0).all()
        assert batch.cu_seqlens[0] == 0
        assert batch.cu_seqlens[-1] == len(batch.token_ids_T)
        assert batch.max_seqlen == lengths.max()
        assert batch.position_ids_T.tolist() == [i for n in lengths for i in range(n)]
        assert batch.cu_seqlens[len(batch.case_ids)] <= CAPACITY
        if pad:
            assert len(batch.token_ids_T) == CAPACITY + 5
            assert len(lengths) == len(batch.case_ids) + 1
            padding = slice(batch.cu_seqlens[-2], None)
            assert (batch.labels_T[padding] == IGNORE_INDEX).all()
        else:
            assert len(lengths) == len(batch.case_ids)


def test_dtypes_are_what_the_step_expects() -> None:
    (batch,) = pack([prompt_of(0, 5)], tokens_per_batch=8, pad_to=8)
    for array in (batch.token_ids_T, batch.labels_T, batch.position_ids_T):
        assert array.dtype == np.int64
    assert batch.cu_seqlens.dtype == np.int32


def test_the_drawing_of_the_batch_is_true() -> None:
    """The example in the docstring of ``PackedBatch``, with real numbers."""
    rows = [prompt_of(0, 4, prompt_length=2), prompt_of(1, 2, prompt_length=1)]
    (batch,) = pack([*rows, prompt_of(2, 3, prompt_length=1)], tokens_per_batch=9, pad_to=11)
    no = IGNORE_INDEX
    assert batch.token_ids_T.tolist() == [0, 1, 2, 3, 1000, 1001, 2000, 2001, 2002, 0, 0]
    assert batch.position_ids_T.tolist() == [0, 1, 2, 3, 0, 1, 0, 1, 2, 0, 1]
    assert batch.labels_T.tolist() == [no, 2, 3, no, 1001, no, 2001, 2002, no, no, no]
    assert batch.cu_seqlens.tolist() == [0, 4, 6, 9, 11]
    assert batch.case_ids == ("row:0", "row:1", "row:2")
    assert (batch.num_targets, batch.max_seqlen) == (5, 4)


def test_a_full_batch_gets_no_padding_segment() -> None:
    (batch,) = pack([prompt_of(0, 8)], tokens_per_batch=8, pad_to=8)
    assert batch.cu_seqlens.tolist() == [0, 8]


def test_a_row_longer_than_a_batch_is_refused_by_name() -> None:
    with pytest.raises(PackingError, match="9 tokens do not fit into a batch of 8") as caught:
        pack([prompt_of(0, 3), prompt_of(1, 9)], tokens_per_batch=8)
    assert caught.value.where == "row:1"
    with pytest.raises(PackingError, match=r"pad_to \(7\) is smaller"):
        pack([], tokens_per_batch=8, pad_to=7)


def test_no_prompts_are_no_batches() -> None:
    assert pack([], tokens_per_batch=8) == []


def fewest_bins(lengths: list[int], capacity: int, room: tuple[int, ...] = ()) -> int:
    """The best possible, by trying everything."""
    if not lengths:
        return len(room)
    length, rest = lengths[0], lengths[1:]
    placed = [
        fewest_bins(rest, capacity, (*room[:i], free - length, *room[i + 1 :]))
        for i, free in enumerate(room)
        if free >= length
    ]
    return min([*placed, fewest_bins(rest, capacity, (*room, capacity - length))])


@given(lengths=st.lists(st.integers(1, 20), min_size=1, max_size=7))
@settings(deadline=None, max_examples=100)
def test_best_fit_decreasing_is_near_the_best_possible(lengths: list[int]) -> None:
    """At most 11/9 of the fewest bins and 6/9 of one more (Dosa, 2007)."""
    bins = best_fit_decreasing(lengths, capacity=20)
    assert sorted(i for indices in bins for i in indices) == list(range(len(lengths)))
    assert all(sum(lengths[i] for i in indices) <= 20 for indices in bins)
    assert len(bins) <= (11 * fewest_bins(lengths, 20) + 6) / 9
    assert bins == best_fit_decreasing(lengths, capacity=20)


def test_best_fit_takes_the_fullest_bin_with_room() -> None:
    assert best_fit_decreasing([6, 7, 3, 4], capacity=10) == [[0, 3], [1, 2]]
    assert best_fit_decreasing([], capacity=10) == []


def test_500_rows_are_packed_in_a_fifth_of_a_second_and_fill_the_batches() -> None:
    lengths = np.random.default_rng(0).gamma(9, 75, size=500).astype(int).clip(50, 2048)
    prompts = [prompt_of(case, int(length)) for case, length in enumerate(lengths)]
    seconds = []
    for _ in range(3):
        start = time.process_time()
        batches = pack(prompts, tokens_per_batch=4096, pad_to=4096)
        seconds.append(time.process_time() - start)
    assert min(seconds) < 0.2
    held = [int(batch.cu_seqlens[len(batch.case_ids)]) for batch in batches]
    assert sum(held) == lengths.sum()
    assert sum(held) > 0.97 * 4096 * len(batches)

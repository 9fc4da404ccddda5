from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medimind.cases.case import Case
from medimind.cases.split import group_of, split_cases
from medimind.errors import DataError


def case(number: int, group: str | None = None, **changes) -> Case:
    question = changes.pop("question", f"Question {number}?")
    return Case(id=f"c{number}", question=question, response="r", group=group, **changes)


def ids(cases) -> list[str]:
    return [case.id for case in cases]


GROUPS = st.lists(st.one_of(st.none(), st.sampled_from("abcdefgh")), min_size=2, max_size=40)


@settings(deadline=None, max_examples=150)
@given(groups=GROUPS, seed=st.integers(0, 5), fraction=st.sampled_from([0.05, 0.3, 0.9]))
def test_sides_are_disjoint_complete_and_never_share_a_group(groups, seed, fraction):
    cases = [case(number, group) for number, group in enumerate(groups)]
    if len({group_of(some) for some in cases}) < 2:
        return
    split = split_cases(cases, fraction=fraction, seed=seed)
    assert sorted(ids(split.train) + ids(split.held_out)) == sorted(ids(cases))
    assert split.train
    assert split.held_out
    held = {group_of(some) for some in split.held_out}
    assert not held & {group_of(some) for some in split.train}


@settings(deadline=None, max_examples=150)
@given(groups=GROUPS, seed=st.integers(0, 5), rows=st.integers(1, 39))
def test_rows_are_met_exactly_or_refused_for_good_reason(groups, seed, rows):
    cases = [case(number, group) for number, group in enumerate(groups)]
    sizes = [sum(g == name for g in groups) for name in set(groups) - {None}]
    sums = {0}
    for size in [*sizes, *[1] * groups.count(None)]:
        sums |= {total + size for total in sums}
    try:
        split = split_cases(cases, rows=rows, seed=seed)
    except DataError:
        num_groups = len({group_of(some) for some in cases})
        assert rows not in sums or rows >= len(cases) or num_groups < 2
    else:
        assert len(split.held_out) == rows
        held = {group_of(some) for some in split.held_out}
        assert not held & {group_of(some) for some in split.train}


def test_neither_order_nor_new_rows_move_a_case():
    cases = [case(number) for number in range(200)]
    first = set(ids(split_cases(cases, fraction=0.2, seed=1).held_out))
    assert set(ids(split_cases(cases[::-1], fraction=0.2, seed=1).held_out)) == first
    more = [*cases, *(case(number) for number in range(200, 400))]
    later = set(ids(split_cases(more, fraction=0.2, seed=1).held_out))
    assert {name for name in later if int(name[1:]) < 200} == first
    assert set(ids(split_cases(cases, fraction=0.2, seed=2).held_out)) != first
    assert 20 < len(first) < 60


def test_order_of_cases_is_kept():
    cases = [case(number) for number in range(50)]
    split = split_cases(cases, rows=10, seed=0)
    for side in (split.train, split.held_out):
        assert [int(name[1:]) for name in ids(side)] == sorted(int(n[1:]) for n in ids(side))


def test_the_same_question_is_one_group():
    cases = [case(number, question=f"What is X{number % 5}?") for number in range(20)]
    split = split_cases(cases, rows=8, seed=0)
    assert not {c.question for c in split.held_out} & {c.question for c in split.train}
    assert group_of(case(0, question="?!")) != group_of(case(0, question="!?"))


def test_without_rows_or_fraction_the_source_decides():
    cases = [case(0, split="train"), case(1, split="held_out"), case(2)]
    split = split_cases(cases, seed=0)
    assert (ids(split.train), ids(split.held_out)) == (["c0", "c2"], ["c1"])


def test_groups_that_cannot_add_up():
    cases = [case(number, "abc"[number % 3]) for number in range(9)]
    assert len(split_cases(cases, rows=6, seed=0).held_out) == 6
    with pytest.raises(DataError, match=r"exactly 5 held-out cases.*Ask for 3"):
        split_cases(cases, rows=5, seed=0)
    with pytest.raises(DataError, match="9 of 9 cases cannot be held out"):
        split_cases(cases, rows=9, seed=0)
    with pytest.raises(DataError, match="3 cases in 1 group cannot be split"):
        split_cases(cases[::3], rows=1, seed=0)


def test_groups_taken_first_give_way_when_they_do_not_add_up():
    # Sizes 3, 3, 2, 2 in some order: 4 needs both twos, whichever comes first.
    groups = "aaabbbccdd"
    for seed in range(20):
        split = split_cases([case(n, g) for n, g in enumerate(groups)], rows=4, seed=seed)
        assert {some.group for some in split.held_out} == {"c", "d"}

from __future__ import annotations

import random
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medimind.cases.case import Case
from medimind.cases.duplicates import SHINGLE_WORDS, find_duplicates
from medimind.cases.words import count_words, gram_hashes, words_of


def case(number: int, text: str, **changes) -> Case:
    return Case(id=f"c{number}", **{"question": "Q?", "response": text, "source": "s", **changes})


def text_of(number: int, num_words: int = 100) -> str:
    draw = random.Random(number)
    return " ".join(draw.choices([f"w{index}" for index in range(5000)], k=num_words))


def pairs(cases, threshold=0.85):
    found = find_duplicates(cases, near_threshold=threshold)
    return [(duplicate.case_id, duplicate.kept_id, duplicate.kind) for duplicate in found]


def test_exact_repeats_ignore_case_and_white_space():
    cases = [
        case(0, "The  Heart\nbeats."),
        case(1, "the heart beats."),
        case(2, "the heart rests."),
    ]
    assert pairs(cases, None) == [("c1", "c0", "exact")]


def test_one_changed_word_is_a_near_repeat():
    words = text_of(1).split()
    changed = [*words[:50], "changed", *words[51:]]
    cases = [case(0, " ".join(words)), case(1, text_of(2)), case(2, " ".join(changed))]
    assert pairs(cases) == [("c2", "c0", "near")]
    (found,) = find_duplicates(cases, near_threshold=0.85)
    assert found.similarity == pytest.approx((99 + 1 - 3) / (99 + 1 + 3), abs=0.02)
    assert pairs(cases, None) == []


def test_a_repeat_of_a_repeat_names_the_kept_one():
    words = text_of(1).split()
    near = " ".join([*words[:50], "changed", *words[51:]])
    cases = [case(0, " ".join(words)), case(1, near), case(2, near.upper())]
    assert pairs(cases) == [("c1", "c0", "near"), ("c2", "c0", "near")]


def test_another_gold_answer_is_another_case():
    text = text_of(1)
    cases = [case(0, text, answer="PBC"), case(1, text + " x", answer="PSC")]
    assert pairs(cases) == []
    assert pairs([cases[0], case(1, text + " x", answer=" pbc.")]) == [("c1", "c0", "near")]
    assert pairs([cases[0], case(1, text + " x")]) == [("c1", "c0", "near")]


def test_held_out_cases_never_stand_in_for_training_cases():
    text = text_of(1)
    cases = [case(0, text, split="train"), case(1, text, split="held_out"), case(2, text + " x")]
    assert pairs(cases) == [("c2", "c0", "near")]


def test_texts_without_words_and_very_short_ones():
    cases = [case(0, "???", question="?"), case(1, "!!!", question="?"), case(2, "a", question="?")]
    assert pairs(cases) == []
    assert pairs([case(0, "Yes!", question="?"), case(1, "yes.", question="?")]) == [
        ("c1", "c0", "near")
    ]
    assert pairs([]) == []


def test_chinese_is_compared_by_character():
    text = "患者是一位八十二岁的老人他的症状让我立即想到了一些" + "常见的老年问题头摇不止肢体震颤"
    cases = [case(0, text), case(1, text.replace("一些", "几个"))]
    assert pairs(cases, 0.7) == [("c1", "c0", "near")]


def brute_force(cases, threshold):
    """Every case against every kept one, with sets of tuples."""
    kept: list[tuple[Case, set]] = []
    found = []
    for some in cases:
        words = words_of(f"{some.question}\n{some.response}")
        size = min(SHINGLE_WORDS, len(words))
        grams = {tuple(words[i : i + size]) for i in range(len(words) - size + 1)}
        for other, others in kept:
            if len(grams & others) / len(grams | others) >= threshold - 1e-9:
                found.append((some.id, other.id))
                break
        else:
            kept.append((some, grams))
    return found


@settings(deadline=None, max_examples=150)
@given(
    texts=st.lists(
        st.lists(st.sampled_from("abcdef"), min_size=1, max_size=25).map(" ".join), max_size=12
    ),
    threshold=st.sampled_from([0.2, 0.5, 2 / 3, 0.85, 1.0]),
)
def test_no_pair_is_missed(texts, threshold):
    cases = [case(number, text) for number, text in enumerate(texts)]
    found = [(d.case_id, d.kept_id) for d in find_duplicates(cases, near_threshold=threshold)]
    assert found == brute_force(cases, threshold)


def test_the_order_of_unrelated_rows_and_repetition_change_nothing():
    cases = [case(n, text_of(n % 40) + (" x" if n >= 40 else "")) for n in range(80)]
    assert pairs(cases) == pairs(cases)
    assert {(d, k) for d, k, _ in pairs(cases)} == {(f"c{n + 40}", f"c{n}") for n in range(40)}


@pytest.mark.parametrize("share", [0.02, 0.1, 0.2])
def test_many_rows_of_one_template_take_no_quadratic_time(share):
    base = text_of(0, 200).split()
    cases = []
    for number in range(1500):
        words = list(base)
        for slot in range(int(100 * share)):
            words[slot * 2] = f"n{number}x{slot}"
        cases.append(case(number, " ".join(words)))
    start = time.process_time()
    found = find_duplicates(cases, near_threshold=0.85)
    assert time.process_time() - start < 10
    assert len(found) in (0, 1499)


def test_words_are_counted_in_any_script():
    assert words_of("The pH is 7.35; Behçet’s!") == ["the", "ph", "is", "7", "35", "behçet", "s"]
    assert count_words("ｆｕｌｌ width") == 2
    assert words_of("ﬁbrosis") == ["fibrosis"]
    assert count_words("头摇 abc") == 3


def test_hashes_of_grams_depend_on_order_and_nothing_else():
    first = gram_hashes(["a", "b", "c", "a", "b", "c"], size=3)
    assert first.dtype == np.uint64
    assert first.size == 3
    assert not np.array_equal(
        gram_hashes(["c", "b", "a"], size=3), gram_hashes(["a", "b", "c"], size=3)
    )
    assert gram_hashes(["a"], size=2).size == 0
    # A value of another run: the hash must not depend on Python's seed.
    assert gram_hashes(["liver", "fails"], size=2).tolist() == [KNOWN_HASH]


KNOWN_HASH = 10967959084116334961

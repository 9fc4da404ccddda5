from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medimind.cases.case import Case, Turn
from medimind.cases.contamination import find_contamination, uncheckable
from medimind.cases.words import words_of

ITEM = (
    "A 45-year-old woman comes to the clinic with fatigue and itching for six months and her "
    "antimitochondrial antibodies are positive. Which of the following is the most likely "
    "diagnosis?"
)


def case(name: str, question: str, response: str = "r", **changes) -> Case:
    return Case(id=name, question=question, response=response, source="s", **changes)


def hits(train, items, *, ngram=8, threshold=0.5):
    found = find_contamination(train, items, ngram=ngram, threshold=threshold)
    return [(hit.case_id, hit.item_id) for hit in found]


def test_a_copied_item_is_found_wherever_it_hides():
    item = case("i", ITEM)
    train = [
        case("same", ITEM.upper()),
        case("within", f"Please answer. {ITEM} Think first."),
        case("reasoning", "Other?", reasoning=f"I recall: {ITEM}"),
        case("response", "Other?", f"As in: {ITEM}"),
        case("history", "Other?", history=(Turn("user", ITEM),)),
        case("other", "A child has a rash on both cheeks. What is it?"),
    ]
    assert [name for name, _ in hits(train, [item])] == [c.id for c in train[:5]]
    assert find_contamination(train, [item], ngram=8, threshold=0.5)[0].coverage == 1.0


def test_a_set_phrase_in_common_is_no_repeat():
    train = [case("t", "A boy limps. Which of the following is the most likely diagnosis?")]
    assert hits(train, [case("i", ITEM)]) == []
    assert hits(train, [case("i", ITEM)], threshold=0.01) == [("t", "i")]


def test_half_an_item_counts_at_the_threshold():
    words = [f"w{index}" for index in range(27)]  # 20 8-grams
    item = case("i", " ".join(words))
    assert hits([case("t", " ".join(words[:17]))], [item]) == [("t", "i")]  # 10 of 20
    assert hits([case("t", " ".join(words[:16]))], [item]) == []


def test_it_is_the_share_of_the_item_not_of_the_row():
    long_row = case("t", " ".join(f"x{index}" for index in range(5000)) + " " + ITEM)
    assert hits([long_row], [case("i", ITEM)]) == [("t", "i")]
    assert hits([case("t", ITEM)], [case("i", long_row.question)]) == []


def test_the_worst_item_is_named():
    part = " ".join(ITEM.split()[:20])
    items = [case("half", f"{ITEM} {' '.join(f'y{n}' for n in range(18))}"), case("all", part)]
    assert hits([case("t", ITEM)], items) == [("t", "all")]


def test_short_questions_are_looked_for_with_their_options():
    options = ("More frequent for men", "Illegal in most countries", "Always happy")
    item = case("i", "Remarriages are", options=options)
    assert hits([case("t", "Remarriages are", options=options)], [item]) == [("t", "i")]
    assert hits([case("t", "Remarriages are common these days in most places")], [item]) == []
    assert uncheckable([item, case("short", "What is it?")], ngram=8) == ["short"]
    assert hits([case("t", ITEM)], [case("short", "What is it?")]) == []
    assert hits([case("t", ITEM)], []) == []


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 10**6), threshold=st.sampled_from([0.1, 0.5, 0.9]))
def test_coverage_equals_that_of_plain_sets(seed, threshold):
    draw = random.Random(seed)

    def text(size: int) -> str:
        return " ".join(draw.choices("abc", k=size))

    train = [case(f"t{n}", text(draw.randint(1, 30)), text(9)) for n in range(6)]
    items = [case(f"i{n}", text(draw.randint(1, 12))) for n in range(5)]

    def grams(words: list[str]) -> set[tuple[str, ...]]:
        return {tuple(words[i : i + 3]) for i in range(len(words) - 2)}

    expected = {}
    for row in train:
        seen = grams(words_of(row.question)) | grams(words_of(row.response))
        shares = [
            len(wanted & seen) / len(wanted) if (wanted := grams(words_of(item.question))) else 0
            for item in items
        ]
        if max(shares) >= threshold:
            expected[row.id] = max(shares)
    found = find_contamination(train, items, ngram=3, threshold=threshold)
    assert {hit.case_id: hit.coverage for hit in found} == pytest.approx(expected, abs=1e-4)

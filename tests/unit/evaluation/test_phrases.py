"""Normalisation and cautious negation of phrase matching."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medimind.evaluation.phrases import find_phrase, same_words, starts_with_words, words


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ("Pulmonary Embolism", "the pulmonary embolism."),
        ("Dressler's syndrome", "Dressler syndrome"),
        ("Whipple’s disease", "whipple disease"),
        ("Attention-deficit/hyperactivity disorder", "attention deficit hyperactivity disorder"),
        ("absence seizures", "absence seizure"),
        ("β-hCG", "beta hCG"),
        ("Ménière disease", "Meniere disease"),
        ("ﬁbrosis", "fibrosis"),
        ("allergies", "allergy"),
        ("肺炎", "肺炎"),
    ],
)
def test_same(one: str, other: str) -> None:
    assert same_words(one, other)


@pytest.mark.parametrize(
    ("one", "other"),
    [("hypertension", "hypotension"), ("5 mg", "15 mg"), ("1.5 g", "15 g"), ("", ""), ("?", "!")],
)
def test_different(one: str, other: str) -> None:
    assert not same_words(one, other)


def test_words_that_only_look_plural_stay() -> None:
    assert words("sepsis virus abscess gas") == ["sepsis", "virus", "abscess", "gas"]


def test_starts_with() -> None:
    assert starts_with_words("Pulmonary embolism, because", "pulmonary embolism")
    assert not starts_with_words("Embolism", "pulmonary embolism")
    assert not starts_with_words("anything", "")


ASSERTED = [
    "The diagnosis is pulmonary embolism.",
    "Pulmonary emboli... the final diagnosis: Pulmonary embolism!",
    "It is not pericarditis but pulmonary embolism.",
    "Not pericarditis; pulmonary embolism.",
    "Rather than pericarditis this is, from all findings, pulmonary embolism.",
    "Pulmonary embolism is not excluded by D-dimer. It is pulmonary embolism.",
    "This rules out pericarditis. Pulmonary embolism remains.",
]
NEGATED = [
    "It is not pulmonary embolism.",
    "Pericarditis rather than pulmonary embolism.",
    "Pericarditis instead of a pulmonary embolism.",
    "Pulmonary embolism is unlikely.",
    "Pulmonary embolism was ruled out.",
    "The CT rules out pulmonary embolism.",
    "No sign of a pulmonary embolism.",
    "Pulmonary embolism isn't the cause.",
    "She doesn't have a pulmonary embolism.",
    "This isn't pulmonary embolism.",
    "A non-pulmonary embolism.",
    "An embolism of the lung.",
    "pulmonary embolisation",
]


@pytest.mark.parametrize("text", ASSERTED)
def test_asserted(text: str) -> None:
    assert find_phrase(text, "Pulmonary embolism").asserted


@pytest.mark.parametrize("text", NEGATED)
def test_not_asserted(text: str) -> None:
    assert not find_phrase(text, "Pulmonary embolism").asserted


def test_whole_words_only() -> None:
    assert not find_phrase("rickettsia infection", "rickets").asserted
    assert not find_phrase("hypothyroidism", "thyroid").asserted


def test_counts() -> None:
    found = find_phrase("Not sepsis. Sepsis. Perhaps sepsis.", "sepsis")
    assert (found.occurrences, found.negated, found.asserted) == (3, 1, True)


def test_acronym_in_parentheses() -> None:
    gold = "Epstein Barr virus (EBV)"
    assert find_phrase("caused by EBV", gold).asserted
    assert find_phrase("caused by Epstein-Barr virus", gold).asserted
    assert not find_phrase("caused by (acute)", "Hepatitis (acute)").asserted


def test_alias_and_longest_form_count_once() -> None:
    found = find_phrase("acute renal failure", "renal failure", aliases=("acute renal failure",))
    assert found.occurrences == 1


def test_chinese_phrase_within_a_sentence() -> None:
    assert find_phrase("患者考虑为肺炎。", "肺炎").asserted


@given(st.text(max_size=60), st.text(max_size=30))
@settings(deadline=None, max_examples=200)
def test_any_text_is_survived(text: str, phrase: str) -> None:
    found = find_phrase(text, phrase)
    assert 0 <= found.negated <= found.occurrences
    assert words(" ".join(words(text))) is not None


def test_non_makes_another_disease_of_it() -> None:
    assert not find_phrase("non-Hodgkin lymphoma", "Hodgkin lymphoma").asserted
    assert find_phrase("non-Hodgkin lymphoma", "non-Hodgkin lymphoma").asserted
    assert find_phrase("Non-ST-elevation myocardial infarction", "Myocardial infarction").asserted

"""Training cases that repeat what a model will be judged by.

An item is repeated where one training case covers a large share of its word n-grams. A single
n-gram in common proves nothing: set phrases such as "which of the following is the most likely
diagnosis" are in many cases. (GPT-3's check by any 13-gram, Brown et al., 2020, appendix C,
flags too much for that reason; coverage follows Llama 2's, Touvron et al., 2023, appendix A.6.)
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from medimind.cases.case import Case
from medimind.cases.words import gram_hashes, words_of


@dataclass(frozen=True, slots=True)
class Hit:
    """A training case that repeats an item.

    Attributes:
        case_id: The training case.
        item_id: The held-out case or benchmark item that it covers most.
        item_source: Where the item is from.
        coverage: Share of the item's n-grams that the case holds.
    """

    case_id: str
    item_id: str
    item_source: str
    coverage: float


def find_contamination(
    train: Sequence[Case], items: Sequence[Case], *, ngram: int, threshold: float
) -> list[Hit]:
    """The training cases that cover at least ``threshold`` of an item, with their worst item.

    An item's text is its question, with its options where the question alone is shorter than one
    n-gram. ``uncheckable`` says which items are too short even so.

    Args:
        train: Cases whose question, options, reasoning and response are searched.
        items: Held-out cases or benchmark items.
        ngram: Words per n-gram.
        threshold: Share of the item's n-grams.
    """
    item_grams = [gram_hashes(_item_words(item, ngram), size=ngram) for item in items]
    sizes = np.array([grams.size for grams in item_grams], dtype=np.int64)
    if not sizes.sum():
        return []
    grams = np.concatenate(item_grams)
    owners = np.repeat(np.arange(len(items)), sizes)
    order = np.argsort(grams, kind="stable")
    grams, owners = grams[order], owners[order]
    hits: list[Hit] = []
    for case in train:
        found = _owners_of(_case_grams(case, ngram), grams, owners)
        if not found.size:
            continue
        covered = np.bincount(found, minlength=len(items)) / np.maximum(sizes, 1)
        worst = int(covered.argmax())
        if covered[worst] >= threshold:
            item = items[worst]
            hits.append(Hit(case.id, item.id, item.source, round(float(covered[worst]), 4)))
    return hits


def uncheckable(items: Sequence[Case], *, ngram: int) -> list[str]:
    """Ids of the items that are shorter than one n-gram."""
    return [item.id for item in items if len(_item_words(item, ngram)) < ngram]


def _item_words(item: Case, ngram: int) -> list[str]:
    words = words_of(item.question)
    if len(words) < ngram:
        words = [*words, *words_of("\n".join(item.options))]
    return words


def _case_grams(case: Case, ngram: int) -> NDArray[np.uint64]:
    history = (turn.text for turn in case.history)
    asked = "\n".join((case.question, *case.options))
    texts = (*history, asked, case.reasoning, case.response)
    return np.unique(np.concatenate([gram_hashes(words_of(t), size=ngram) for t in texts]))


def _owners_of(
    wanted: NDArray[np.uint64], grams: NDArray[np.uint64], owners: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Owners of all grams that are wanted, each as often as it owns one."""
    start = np.searchsorted(grams, wanted, side="left")
    stop = np.searchsorted(grams, wanted, side="right")
    some = stop > start
    if not some.any():
        return np.empty(0, dtype=np.int64)
    return np.concatenate([owners[a:b] for a, b in zip(start[some], stop[some])])

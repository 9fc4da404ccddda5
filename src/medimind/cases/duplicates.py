"""Rows that repeat an earlier one, word for word or nearly so.

Near duplicates are found exactly rather than with a sketch. Two sets of n-grams whose Jaccard
similarity is at least ``t`` must share a gram among the first ``n - ceil(t * n) + 1`` of each, when
both are ordered by how rare their grams are (prefix filtering: Chaudhuri et al., ICDE 2006; Bayardo
et al., WWW 2007). Only rows that do are compared, so no pair is missed and nothing is random.

Shapes: ``R`` rows, ``G`` distinct n-grams of one row.
"""

from __future__ import annotations

import hashlib
import unicodedata
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from medimind.cases.case import Case
from medimind.cases.outcome import Duplicate
from medimind.cases.words import gram_hashes, words_of

SHINGLE_WORDS = 3
_ROUNDING = 1e-9


def find_duplicates(cases: Sequence[Case], *, near_threshold: float | None) -> list[Duplicate]:
    """The cases to leave out, in their order, each with the kept case that it repeats.

    The first of several is kept. A case that its source holds out never stands in for one to
    train on, nor the other way round. Near duplicates with different gold answers are no
    duplicates: a changed age or finding can turn a case into another.

    Args:
        cases: Cases of all sources, in order.
        near_threshold: Jaccard similarity of the sets of word 3-grams from which a case counts as
            a repeat; ``None`` finds exact repeats only.
    """
    exact = _find_exact(cases)
    if near_threshold is None:
        return [exact[index] for index in sorted(exact)]
    rest = [index for index in range(len(cases)) if index not in exact]
    near = _find_near([cases[index] for index in rest], threshold=near_threshold)
    found = exact | {rest[index]: duplicate for index, duplicate in near.items()}
    near_by_id = {duplicate.case_id: duplicate for duplicate in near.values()}
    return [_resolved(found[index], near_by_id) for index in sorted(found)]


def _resolved(duplicate: Duplicate, near_by_id: dict[str, Duplicate]) -> Duplicate:
    """An exact repeat of a near duplicate repeats what that one repeats, as near as that one."""
    near = near_by_id.get(duplicate.kept_id)
    return (
        duplicate
        if near is None
        else replace(duplicate, kept_id=near.kept_id, kind="near", similarity=near.similarity)
    )


def _find_exact(cases: Sequence[Case]) -> dict[int, Duplicate]:
    first: dict[bytes, str] = {}
    found: dict[int, Duplicate] = {}
    for index, case in enumerate(cases):
        kept_id = first.setdefault(_fingerprint(case), case.id)
        if kept_id != case.id:
            found[index] = Duplicate(case.source, case.id, kept_id, "exact", 1.0)
    return found


def _fingerprint(case: Case) -> bytes:
    parts = [str(_held_out(case)), case.answer or "", *_texts(case)]
    plain = ("\0".join(" ".join(part.split()) for part in parts)).casefold()
    return hashlib.sha256(unicodedata.normalize("NFKC", plain).encode()).digest()


def _texts(case: Case) -> list[str]:
    history = (turn.text for turn in case.history)
    return [
        case.system or "",
        *history,
        case.question,
        *case.options,
        case.reasoning,
        case.response,
    ]


def _held_out(case: Case) -> bool:
    return case.split == "held_out"


def _find_near(cases: Sequence[Case], *, threshold: float) -> dict[int, Duplicate]:
    """Index -> duplicate, for the cases left out."""
    rows = _ranked([_shingles(case) for case in cases])
    answers = [" ".join(words_of(case.answer)) if case.answer else None for case in cases]
    index = _PrefixIndex(rows, threshold=threshold)
    found: dict[int, Duplicate] = {}
    for row, case in enumerate(cases):
        for kept, similarity in index.matches(row):
            other_answer = answers[row] and answers[kept] and answers[row] != answers[kept]
            if not other_answer and _held_out(case) == _held_out(cases[kept]):
                found[row] = Duplicate(
                    case.source, case.id, cases[kept].id, "near", round(similarity, 6)
                )
                break
        else:
            index.add(row)
    return found


def _shingles(case: Case) -> NDArray[np.uint64]:
    words = words_of("\n".join(_texts(case)))
    return gram_hashes(words, size=max(1, min(SHINGLE_WORDS, len(words))))


def _ranked(grams: Sequence[NDArray[np.uint64]]) -> list[NDArray[np.int64]]:
    """Each row's grams as sorted ranks: 0 is the rarest gram of all rows."""
    if not grams:
        return []
    _, inverse, counts = np.unique(np.concatenate(grams), return_inverse=True, return_counts=True)
    rank = np.empty(counts.size, dtype=np.int64)
    rank[np.argsort(counts, kind="stable")] = np.arange(counts.size)
    ends = np.cumsum([row.size for row in grams])[:-1]
    return [np.sort(row) for row in np.split(rank[inverse], ends)]


class _PrefixIndex:
    """The kept rows, to be found by the rarest grams of each.

    Args:
        rows_RG: Sorted ranks of each row's grams.
        threshold: Jaccard similarity that counts.
    """

    def __init__(self, rows_RG: list[NDArray[np.int64]], *, threshold: float) -> None:
        self._rows_RG = rows_RG
        self._threshold = threshold
        self._sizes_R = np.array([row.size for row in rows_RG], dtype=np.int64)
        least_R = np.ceil(threshold * self._sizes_R - _ROUNDING).astype(np.int64)
        self._prefixes_R = np.minimum(self._sizes_R, self._sizes_R - least_R + 1)
        self._kept_by_gram: dict[int, array[int]] = {}
        num_grams = max((int(row[-1]) + 1 for row in rows_RG if row.size), default=0)
        self._is_in_row = np.zeros(num_grams, dtype=np.bool_)

    def add(self, row: int) -> None:
        """Keep a row."""
        for gram in self._rows_RG[row][: self._prefixes_R[row]].tolist():
            self._kept_by_gram.setdefault(gram, array("q")).append(row)

    def matches(self, row: int) -> Iterator[tuple[int, float]]:
        """The kept rows that are similar enough, the earliest first, with their similarity."""
        candidates = self._candidates(row)
        if not candidates:
            return
        grams_G, sizes = self._rows_RG[row], self._sizes_R
        self._is_in_row[grams_G] = True
        overlaps = [int(self._is_in_row[self._rows_RG[kept]].sum()) for kept in candidates]
        self._is_in_row[grams_G] = False
        for kept, overlap in zip(candidates, overlaps):
            similarity = float(overlap / (sizes[row] + sizes[kept] - overlap))
            if similarity >= self._threshold - _ROUNDING:
                yield kept, similarity

    def _candidates(self, row: int) -> list[int]:
        size, prefix = self._sizes_R[row], self._prefixes_R[row]
        grams = self._rows_RG[row][:prefix].tolist()
        kept = [self._kept_by_gram[gram] for gram in grams if gram in self._kept_by_gram]
        if not kept:
            return []
        rows, shared = np.unique(
            np.concatenate([np.frombuffer(some, dtype=np.int64) for some in kept]),
            return_counts=True,
        )
        sizes = self._sizes_R[rows]
        needed = self._threshold / (1 + self._threshold) * (size + sizes) - _ROUNDING
        # Beyond the shorter-reaching prefix, at most the rest of that row can be shared.
        possible = shared + np.maximum(size - prefix, sizes - self._prefixes_R[rows])
        return rows[possible >= needed].tolist()

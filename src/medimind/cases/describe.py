"""Figures about cases as plain data, for the run folder and the command line."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from medimind.cases.case import Case
from medimind.cases.loaded import LoadedCases
from medimind.cases.words import count_words

_QUANTILES = {"min": 0.0, "p10": 0.1, "median": 0.5, "p90": 0.9, "p99": 0.99, "max": 1.0}


def describe_cases(cases: Sequence[Case]) -> dict[str, Any]:
    """Counts by source, specialty and kind, and lengths in words. JSON-able, without any text."""
    return {
        "cases": len(cases),
        "by_source": _counts(case.source for case in cases),
        "by_specialty": _counts(case.metadata.get("specialty", "(not given)") for case in cases),
        "with_reasoning": sum(bool(case.reasoning) for case in cases),
        "with_options": sum(bool(case.options) for case in cases),
        "with_answer": sum(case.answer is not None for case in cases),
        "with_history": sum(bool(case.history) for case in cases),
        "words": describe_lengths(cases),
    }


def describe_lengths(cases: Sequence[Case]) -> dict[str, dict[str, float]]:
    """Quantiles and mean of the words in question, reasoning and response."""
    lengths = {
        "question": [count_words(case.question) for case in cases],
        "reasoning": [count_words(case.reasoning) for case in cases],
        "response": [count_words(case.response) for case in cases],
    }
    return {name: _quantiles(values) for name, values in lengths.items()}


def describe_loading(loaded: LoadedCases) -> dict[str, Any]:
    """What became of every row: by source and in all, each rejection and each duplicate."""
    return {
        "rows_in": loaded.rows_in,
        "kept": len(loaded.cases),
        "rejected": len(loaded.rejections),
        "duplicates": len(loaded.duplicates),
        "sources": [dataclasses.asdict(source) for source in loaded.sources],
        "rejections": [dataclasses.asdict(rejection) for rejection in loaded.rejections],
        "rejection_reasons": _counts(
            f"{rejection.field}: {rejection.reason}" if rejection.field else rejection.reason
            for rejection in loaded.rejections
        ),
        "duplicate_pairs": [dataclasses.asdict(duplicate) for duplicate in loaded.duplicates],
        "warnings": list(loaded.warnings),
    }


def _counts(names: Iterable[str]) -> dict[str, int]:
    counts = Counter(names)
    return {name: counts[name] for name in sorted(counts, key=lambda name: (-counts[name], name))}


def _quantiles(values: Sequence[int]) -> dict[str, float]:
    if not values:
        return {}
    found = np.quantile(np.asarray(values), list(_QUANTILES.values()))
    quantiles = {name: round(float(value), 1) for name, value in zip(_QUANTILES, found)}
    return {**quantiles, "mean": round(float(np.mean(values)), 1)}

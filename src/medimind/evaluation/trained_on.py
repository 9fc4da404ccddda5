"""Whether training rows repeat what a model is judged by, benchmark by benchmark."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medimind.cases.case import Case
from medimind.cases.contamination import Hit, find_contamination, uncheckable
from medimind.cases.prepare import prepare_cases
from medimind.errors import EvaluationError
from medimind.evaluation.records import Record
from medimind.tracking.run_folder import open_run_folder

NGRAM = 8
THRESHOLD = 0.5


@dataclass(frozen=True, slots=True)
class BenchmarkOverlap:
    """Training rows against one benchmark.

    Attributes:
        benchmark: Its name; ``None`` for held-out cases.
        num_items: Items checked.
        num_too_short: Those too short to check.
        num_train: Training cases searched.
        hits: Training cases that repeat an item, each with its worst item.
        repeated: Ids of the items that are repeated.
        shared_ids: Items whose id is a training case's.
        ngram: Words per n-gram.
        threshold: Share of an item's n-grams from which it counts as repeated.
    """

    benchmark: str | None
    num_items: int
    num_too_short: int
    num_train: int
    hits: tuple[Hit, ...]
    repeated: tuple[str, ...]
    shared_ids: tuple[str, ...]
    ngram: int
    threshold: float


def training_cases(run: Path) -> tuple[Case, ...]:
    """The cases that a run was trained on, read and split again as its recipe says.

    Raises:
        ConfigError: The folder holds no run.
        DataError: Its data cannot be read.
        EvaluationError: Its data changed since.
    """
    folder, recipe = open_run_folder(run)
    cases = prepare_cases(recipe.data, base_folder=Path.cwd(), seed=recipe.train.seed)
    if folder.read_json("provenance.json").get("data_sha256") not in (None, cases.sha256):
        raise EvaluationError(
            "the cases changed since this run was trained, so what it was trained on is unknown",
            where=str(run),
            fix="Restore the data",
        )
    return tuple(cases.train)


def overlaps(
    train: Sequence[Case],
    records: Sequence[Record],
    *,
    ngram: int = NGRAM,
    threshold: float = THRESHOLD,
) -> tuple[BenchmarkOverlap, ...]:
    """The training rows against each benchmark that records are of.

    Args:
        train: Cases that were trained on.
        records: Results; each holds its question and options.
        ngram: Words per n-gram.
        threshold: Share of an item's n-grams that one training case must cover.
    """
    ids = {case.id for case in train}
    found = []
    for benchmark in dict.fromkeys(record.benchmark for record in records):
        items = _items([record for record in records if record.benchmark == benchmark])
        hits = find_contamination(train, items, ngram=ngram, threshold=threshold)
        found.append(
            BenchmarkOverlap(
                benchmark=benchmark,
                num_items=len(items),
                num_too_short=len(uncheckable(items, ngram=ngram)),
                num_train=len(train),
                hits=tuple(hits),
                repeated=tuple(dict.fromkeys(hit.item_id for hit in hits)),
                shared_ids=tuple(item.id for item in items if item.id in ids),
                ngram=ngram,
                threshold=threshold,
            )
        )
    return tuple(found)


def _items(records: Sequence[Record]) -> list[Case]:
    by_id = {record.case_id: record for record in records}
    return [
        Case(
            id=record.case_id,
            question=record.question,
            response="",
            options=record.options,
            source=record.benchmark or "held out",
        )
        for record in by_id.values()
    ]

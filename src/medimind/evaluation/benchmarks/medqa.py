"""MedQA: questions of the United States Medical Licensing Examination, four or five options."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from medimind.cases.case import Case
from medimind.evaluation.benchmarks.benchmark import (
    BenchmarkCard,
    BenchmarkRow,
    Completion,
    TableBenchmark,
    choice_case,
    each,
    lettered,
    letters,
)

_SOURCE = "https://github.com/jind11/MedQA"
_PUBLISHED = "as published"
_PAPER = "Jin et al., 2021, arXiv:2009.13081"


def _cases(rows: Sequence[BenchmarkRow], *, name: str) -> list[Case]:
    def build(row: BenchmarkRow) -> Case:
        step = str(row.fields.get("meta_info") or "")
        case = choice_case(row, name=name, answer="answer_idx", metadata={"step": step})
        published = _published(row)
        if published in (None, f"{case.question}\n{lettered(case)}"):
            return case
        return dataclasses.replace(case, metadata={**case.metadata, _PUBLISHED: published or ""})

    return each(rows, build)


def _published(row: BenchmarkRow) -> str | None:
    """Question and options letter for letter, with what our reading strips."""
    options = row.fields.get("options")
    if not isinstance(options, dict):
        return None
    lines = "".join(f"{letter}. {text}\n" for letter, text in options.items())
    return f"{row.fields['question']}\n{lines}"


def _word(case: Case) -> Completion:
    """As the harness's task ``medqa_4options``, which keeps the white space around texts."""
    text = case.metadata.get(_PUBLISHED, f"{case.question}\n{lettered(case)}")
    return Completion(f"Question: {text}Answer:", letters(case))


MEDQA = TableBenchmark(
    BenchmarkCard(
        name="medqa",
        title="MedQA (USMLE, 4 options)",
        source=_SOURCE,
        paper=_PAPER,
        licence="MIT",
        split="test",
        num_items=1273,
        hub="GBaker/MedQA-USMLE-4-options",
        files=("phrases_no_exclude_test.jsonl", "*medqa*4op*.jsonl", "*4_options*test*.jsonl"),
    ),
    read=lambda rows: _cases(rows, name="medqa"),
    word=_word,
)
MEDQA_5 = TableBenchmark(
    BenchmarkCard(
        name="medqa-5",
        title="MedQA (USMLE, 5 options)",
        source=_SOURCE,
        paper=_PAPER,
        licence="MIT",
        split="test",
        num_items=1273,
        files=("US/test.jsonl", "*medqa*5op*.jsonl", "*5_options*test*.jsonl"),
    ),
    read=lambda rows: _cases(rows, name="medqa-5"),
    word=_word,
)

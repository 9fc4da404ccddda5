"""Benchmarks answered by all arms, and the file that sums them up."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medimind.evaluation.answering.answer import ArmAnswers, Progress, answer_benchmark
from medimind.evaluation.answering.asks import LIKELIHOOD_RULES, Arm, Plan
from medimind.evaluation.benchmarks.read import BenchmarkItems
from medimind.evaluation.comparison import Comparison, Sides, compare_together
from medimind.evaluation.evaluation import ArmSummary, jsonable, summarise_arm
from medimind.evaluation.records import unwritable
from medimind.evaluation.results import NATIVE_NAME, SUMMARY
from medimind.tracking.run_folder import write_atomically


@dataclass(frozen=True, slots=True)
class ArmScore:
    """One arm on one benchmark.

    Attributes:
        summary: Counts over all outputs asked: cases times samples.
        num_samples: Outputs per case.
        likelihood_correct: Cases whose right option is the likeliest.
        num_likelihood: Cases with option likelihoods: the denominator.
        mean_tokens: Mean length of an output; ``None`` where the engine does not tell.
        path: The records.
    """

    summary: ArmSummary
    num_samples: int
    likelihood_correct: int
    num_likelihood: int
    mean_tokens: float | None
    path: str


@dataclass(frozen=True, slots=True)
class BenchmarkResult:
    """One benchmark: what was asked, each arm, and each later arm against the first.

    P-values of the comparisons are adjusted over all benchmarks of the run.
    """

    items: BenchmarkItems
    arms: tuple[ArmScore, ...]
    comparisons: tuple[Comparison, ...]
    notes: tuple[str, ...]
    answers: tuple[ArmAnswers, ...]


def run_benchmarks(
    benchmarks: Sequence[BenchmarkItems],
    *,
    arms: Sequence[Arm],
    plan: Plan,
    folder: Path,
    progress: Progress | None = None,
) -> list[BenchmarkResult]:
    """Every benchmark by every arm; records and ``results.json`` go to ``folder``.

    Raises:
        EngineError: An output cannot be had; what is there is recorded.
        EvaluationError: The plan measures nothing, or records cannot be written.
    """
    asked = []
    for items in benchmarks:
        place = folder / items.card.name
        answers = [
            answer_benchmark(items, arm=arm, plan=plan, folder=place, progress=progress)
            for arm in arms
        ]
        asked.append((items, answers))
    together = [
        Sides(
            first.records,
            other.records,
            (first.arm.name, other.arm.name),
            (first.arm.title, other.arm.title),
            benchmark=items.card.name,
        )
        for items, answers in asked
        for first, other in _pairs(answers)
    ]
    compared = compare_together(together, seed=plan.seed)
    results = [
        BenchmarkResult(
            items=items,
            arms=tuple(_score(one, plan, folder / items.card.name) for one in answers),
            comparisons=tuple(one for one in compared if one.benchmark == items.card.name),
            notes=tuple(dict.fromkeys(note for one in answers for note in one.notes)),
            answers=tuple(answers),
        )
        for items, answers in asked
    ]
    write_json(folder / SUMMARY, _document(results, plan))
    return results


def _pairs(answers: Sequence[ArmAnswers]) -> list[tuple[ArmAnswers, ArmAnswers]]:
    """Each later arm against the first, and against the base model as it wants to be asked.

    The same as a report compares, so that p-values are adjusted over the same figures.
    """
    others = answers[1:]
    pairs = [(answers[0], other) for other in others]
    native = [one for one in others if one.arm.name == NATIVE_NAME]
    if len(others) > 1:
        pairs += [(one, other) for one in native for other in others if other is not one]
    return pairs


def _score(answers: ArmAnswers, plan: Plan, folder: Path) -> ArmScore:
    records, arm = answers.records, answers.arm
    likely = [r.likeliest_correct for r in records if r.likeliest_correct is not None]
    lengths = [record.num_tokens for record in records if record.num_tokens is not None]
    return ArmScore(
        summary=summarise_arm(records, name=arm.name, title=arm.title),
        num_samples=plan.num_samples if plan.decoding is not None else 0,
        likelihood_correct=sum(likely),
        num_likelihood=len(likely),
        mean_tokens=sum(lengths) / len(lengths) if lengths else None,
        path=str(folder / f"{arm.name}.jsonl"),
    )


def _document(results: Sequence[BenchmarkResult], plan: Plan) -> dict[str, Any]:
    decoding = None if plan.decoding is None else dataclasses.asdict(plan.decoding)
    return {
        "plan": {
            "decoding": decoding,
            "num_samples": plan.num_samples,
            "seed": plan.seed,
            "likelihood_rule": LIKELIHOOD_RULES[plan.likelihood] if plan.likelihood else None,
        },
        "benchmarks": [
            {
                **result.items.to_dict(),
                "arms": [
                    # Files keep outputs of earlier settings too; these are the ones counted here.
                    {**dataclasses.asdict(arm), "keys": [record.key for record in one.records]}
                    for arm, one in zip(result.arms, result.answers, strict=True)
                ],
                "comparisons": [dataclasses.asdict(one) for one in result.comparisons],
                "notes": result.notes,
            }
            for result in results
        ],
    }


def write_json(path: Path, document: dict[str, Any]) -> None:
    """Write a document as a whole or not at all.

    Raises:
        EvaluationError: It cannot be written.
    """
    text = json.dumps(jsonable(document), ensure_ascii=False, indent=2) + "\n"
    try:
        write_atomically(path, text)
    except OSError as error:
        raise unwritable("the results", error, where=path) from None

"""Everything that a recipe asks for beside the comparison on held-out cases.

```
FOLDER/benchmarks/medqa/tuned.jsonl    records of benchmarks
FOLDER/hints/tuned.jsonl               records of wrong hints
FOLDER/judges/<judge>.jsonl            judgements on open answers
```

What lies there already is not asked again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from medimind.cases.case import Case
from medimind.config.evaluation import EvaluationConfig
from medimind.engines.engine import Decoding
from medimind.engines.own import OwnEngine
from medimind.evaluation.answering.answer import Progress
from medimind.evaluation.answering.asks import Arm
from medimind.evaluation.answering.plan import evaluate_benchmarks, make_plan
from medimind.evaluation.answering.results import BenchmarkResult
from medimind.evaluation.arms import BASE, BASE_NATIVE, TUNED
from medimind.evaluation.compare import compare_results
from medimind.evaluation.evidence import Evidence
from medimind.evaluation.judge.open import NOTHING_TO_JUDGE, judge_records
from medimind.evaluation.misled import Misled, ask_misled, summarise_misled
from medimind.evaluation.outputs import rescore
from medimind.evaluation.records import Record, read_records
from medimind.evaluation.results import JUDGES, ResultSet, split_native
from medimind.evaluation.trained_on import overlaps
from medimind.models.load import Model
from medimind.prompts.templates import Template

_NO_HINTS = (
    "wrong hints were asked for, but neither held-out cases nor benchmarks offer options to hint at"
)


def gather_evidence(
    model: Model,
    *,
    train: Sequence[Case],
    held_out: Sequence[Case],
    arms: Sequence[str],
    template: Template,
    config: EvaluationConfig,
    folder: Path,
    show_options: bool = True,
    progress: Progress | None = None,
) -> Evidence:
    """All that the recipe asks for beside the before/after comparison.

    Args:
        model: With the adapter attached.
        train: The cases trained on.
        held_out: The held-out cases.
        arms: The arms that answered them, whose records lie in ``folder``.
        template: The recipe's template.
        config: What is measured.
        folder: Where records go, such as ``runs/NAME/evaluation``.
        show_options: Whether held-out cases were shown with their options.
        progress: Called with a title, the finished and the wanted items.

    Raises:
        MediMindError: A benchmark cannot be read, a judge not reached, or records not written.
    """
    records = {
        name: tuple(map(rescore, read_records(folder / f"{name}.jsonl").records)) for name in arms
    }
    asking = _arms(model, template, config)
    results = _benchmarks(asking, config, folder / "benchmarks", progress)
    sets = result_sets(results)
    compared = None
    if sets:
        together, native = split_native(sets)
        compared = compare_results(
            together,
            control=native,
            confidence=config.confidence,
            num_samples=config.bootstrap_samples,
            seed=config.decoding.seed,
        )
    asked = [record for own in records.values() for record in own]
    asked += [record for one in sets for record in one.records]
    misled = _hints(
        asking[:2],
        held_out if show_options else (),
        results,
        records,
        template=template,
        config=config,
        folder=folder / "hints",
        progress=progress,
    )
    judged = judge_records(
        asked,
        judges=config.judges,
        folder=folder / JUDGES,
        titles={arm.name: arm.title for arm in (BASE, TUNED, BASE_NATIVE)},
        confidence=config.confidence,
        progress=progress,
    )
    told = {
        _NO_HINTS: config.wrong_hints > 0 and not misled,
        NOTHING_TO_JUDGE: bool(config.judges) and not judged,
    }
    return Evidence(
        benchmarks=compared,
        misled=misled,
        judged=judged,
        overlaps=overlaps(train, asked),
        notes=tuple(note for note, is_so in told.items() if is_so),
    )


def result_sets(results: Sequence[BenchmarkResult]) -> list[ResultSet]:
    """What each arm answered on all benchmarks, the first arm first."""
    arms: dict[str, tuple[str, list[Record], list[str]]] = {}
    for result in results:
        for one in result.answers:
            _, records, notes = arms.setdefault(one.arm.name, (one.arm.title, [], []))
            records += one.records
            notes += one.notes
    return [
        ResultSet(name, tuple(records), notes=tuple(dict.fromkeys(notes)), title=title)
        for name, (title, records, notes) in arms.items()
    ]


def _arms(model: Model, template: Template, config: EvaluationConfig) -> list[Arm]:
    size = config.decoding.batch_size
    engine = OwnEngine(model, template=template, batch_size=size)
    arms = [
        Arm(BASE.name, BASE.title, engine, "base"),
        Arm(TUNED.name, TUNED.title, engine, "tuned"),
    ]
    if config.benchmarks.native_template:
        native = OwnEngine(model, template=None, batch_size=size)
        arms.append(Arm(BASE_NATIVE.name, BASE_NATIVE.title, native, "base"))
    return arms


def _benchmarks(
    arms: Sequence[Arm], config: EvaluationConfig, folder: Path, progress: Progress | None
) -> list[BenchmarkResult]:
    if not config.benchmarks.names:
        return []
    return evaluate_benchmarks(
        arms, config=config.benchmarks, decoding=config.decoding, folder=folder, progress=progress
    )


def _hints(
    arms: Sequence[Arm],
    held_out: Sequence[Case],
    results: Sequence[BenchmarkResult],
    records: Mapping[str, Sequence[Record]],
    *,
    template: Template,
    config: EvaluationConfig,
    folder: Path,
    progress: Progress | None,
) -> tuple[Misled, ...]:
    """Hints on the held-out cases, else on the first benchmark that offers options."""
    if not config.wrong_hints:
        return ()
    opening = "" if template.open_in_prompt else template.reasoning_open
    own = config.decoding
    decoding = Decoding(own.max_new_tokens, own.thinking_budget, own.temperature, own.top_p)
    for benchmark, cases, plain in _hintable(held_out, results, records):
        plan = make_plan(config.benchmarks, own) if benchmark else None
        found = []
        for arm in arms:
            hinted = ask_misled(
                arm.engine,
                cases[: config.wrong_hints],
                arm=arm.name,
                variant=arm.variant,
                decoding=plan.decoding if plan and plan.decoding else decoding,
                folder=folder,
                opening=opening,
                seed=own.seed,
                progress=progress,
            )
            found.append(
                summarise_misled(
                    hinted,
                    plain.get(arm.name, ()),
                    name=arm.name,
                    title=arm.title,
                    benchmark=benchmark,
                    confidence=config.confidence,
                    num_samples=config.bootstrap_samples,
                    seed=own.seed,
                )
            )
        return tuple(one for one in found if one is not None)
    return ()


def _hintable(
    held_out: Sequence[Case],
    results: Sequence[BenchmarkResult],
    records: Mapping[str, Sequence[Record]],
) -> list[tuple[str | None, list[Case], Mapping[str, Sequence[Record]]]]:
    """Groups of cases with options that were asked without a hint, and those records by arm."""
    groups: list[tuple[str | None, Sequence[Case], Mapping[str, Sequence[Record]]]] = [
        (None, held_out, records)
    ]
    for result in results:
        own = {one.arm.name: one.records for one in result.answers}
        groups.append((result.items.card.name, result.items.cases, own))
    found = []
    for benchmark, cases, plain in groups:
        asked = {record.case_id for own in plain.values() for record in own if record.is_asked}
        with_options = [
            case
            for case in cases
            if case.options and case.answer_index is not None and case.id in asked
        ]
        if with_options:
            found.append((benchmark, with_options, plain))
    return found

"""A model card in the hub's format: YAML with the results block, then what the report says.

The figures are those of the tuned model; each names the base model's beside it, so that nobody can
quote a gain that is none.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from huggingface_hub import EvalResult, ModelCardData

from medimind.evaluation.arm import ArmSummary
from medimind.evaluation.benchmarks import BENCHMARKS
from medimind.evaluation.comparison import Comparison
from medimind.evaluation.evaluation import Evaluation
from medimind.evaluation.evidence import Evidence
from medimind.evaluation.report.content import ReportContent
from medimind.evaluation.report.guessing import told_verdict
from medimind.evaluation.report.markdown import bullets, escape, table
from medimind.evaluation.report.views import Row

_METRICS = {
    "answer_accuracy": ("accuracy", "question-answering"),
    "likelihood_accuracy": ("accuracy", "multiple-choice"),
    "loss": ("loss", "text-generation"),
}
_HEAD = ("Figure", "Base model", "Tuned model", "Difference", "Interval", "Cases", "Verdict")


def model_card(
    evaluation: Evaluation,
    content: ReportContent,
    *,
    evidence: Evidence,
    data_summary: Mapping[str, Any],
) -> str:
    """The card's text; the hub's own package writes and checks its YAML.

    Args:
        evaluation: The before/after comparison.
        content: What the report says.
        evidence: With the benchmarks, where the run was put to some.
        data_summary: Figures of the data stage.
    """
    model = evaluation.settings.model["name"]
    own = _on_benchmarks(evaluation, evidence)
    name = _name(evaluation)
    data = ModelCardData(
        model_name=name,
        base_model=model,
        library_name="peft",
        pipeline_tag="text-generation",
        tags=["medimind", "lora", "qlora", "medical", "reasoning"],
        eval_results=_results([evaluation.main, *own], _arms(evaluation, evidence)) or None,
    )
    main = content.comparisons[0]
    rows = [_cells(row, row.title) for row in main.rows if row.is_primary]
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {escape(name)}",
        f"A LoRA adapter for {escape(model)}, made with MediMind. **{content.headline}** "
        f"{content.addition}".strip(),
        "Research only. Not a medical device, not a diagnosis.",
        "## Before and after",
        f"{content.subtitle}.",
        table(_HEAD, rows),
        "### Better",
        bullets(content.made_better) or "Nothing that can be shown with these cases.",
        "### Worse",
        bullets(content.made_worse) or "Nothing that can be shown with these cases.",
        *_benchmarks(own, content),
        "## Training data",
        bullets(escape(sentence) for sentence in _data(content, data_summary)),
        "## Limits",
        bullets(content.limits),
        "## How it was measured",
        table(("Setting", "Value"), content.settings),
        bullets(f"{rule}." for rule in content.rules),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def model_index(evaluation: Evaluation, evidence: Evidence) -> list[dict[str, Any]]:
    """The results block of a card, as the hub reads it; empty where nothing was measured."""
    comparisons = [evaluation.main, *_on_benchmarks(evaluation, evidence)]
    results = _results(comparisons, _arms(evaluation, evidence))
    if not results:
        return []
    data = ModelCardData(model_name=_name(evaluation), eval_results=results)
    return data.to_dict()["model-index"]


def _name(evaluation: Evaluation) -> str:
    return f"{_slug(evaluation.settings.model['name'])}-medimind"


def _on_benchmarks(evaluation: Evaluation, evidence: Evidence) -> list[Comparison]:
    """The tuned model against the base model with the same prompt."""
    sides = (evaluation.main.before, evaluation.main.after)
    compared = evidence.benchmarks.comparisons if evidence.benchmarks else ()
    return [one for one in compared if (one.before, one.after) == sides]


def _arms(evaluation: Evaluation, evidence: Evidence) -> tuple[ArmSummary, ...]:
    """The models by themselves, which know what guessing would get."""
    return (*evaluation.arms, *(evidence.benchmarks.arms if evidence.benchmarks else ()))


def _results(comparisons: Sequence[Comparison], arms: Sequence[ArmSummary]) -> list[EvalResult]:
    found = []
    for comparison in comparisons:
        dataset = _dataset(comparison)
        for metric in comparison.metrics:
            if metric.name not in _METRICS:
                continue
            kind, task = _METRICS[metric.name]
            found.append(
                EvalResult(
                    task_type=task,
                    **dataset,
                    metric_type=kind,
                    metric_name=metric.title,
                    metric_value=round(metric.after, 4),
                    metric_args={
                        "base_model": round(metric.before, 4),
                        "difference_interval": None
                        if metric.interval is None
                        else [round(metric.interval.low, 4), round(metric.interval.high, 4)],
                        "cases": metric.num_cases,
                        "verdict": told_verdict(comparison, metric, arms),
                    },
                )
            )
    return found


def _dataset(comparison: Comparison) -> dict[str, Any]:
    """The cases as the hub names them: its data set of a benchmark, configuration and split."""
    name = comparison.place
    known = BENCHMARKS.get(comparison.benchmark or "")
    if known is None or known.card.hub is None:
        split = "held-out" if comparison.benchmark is None else "all"
        return {"dataset_type": _slug(name), "dataset_name": name, "dataset_split": split}
    return {
        "dataset_type": known.card.hub,
        "dataset_name": name,
        "dataset_config": known.card.hub_config,
        "dataset_split": known.card.hub_split,
    }


def _benchmarks(comparisons: Sequence[Comparison], content: ReportContent) -> list[str]:
    if not comparisons:
        return []
    titles = {(one.before_title, one.after_title) for one in comparisons}
    rows = [
        _cells(row, f"{view.benchmark}: {row.title}")
        for view in content.comparisons
        if view.benchmark is not None and (view.before_title, view.after_title) in titles
        for row in view.rows
        if row.is_primary
    ]
    return ["## Benchmarks", table(_HEAD, rows)]


def _cells(row: Row, title: str) -> tuple[str, ...]:
    figures = (row.before, row.after, row.difference, row.interval)
    return (title, *figures, str(row.num_cases), row.verdict)


def _data(content: ReportContent, data_summary: Mapping[str, Any]) -> list[str]:
    account = content.account
    if account is None:
        return []
    rows = ", ".join(f"{name.lower()} {count:,}" for name, count in account.rows)
    sources = [f"Source: {name}, revision {revision}." for name, revision, _ in account.sources]
    seed = data_summary.get("seed")
    split = [f"Split with seed {seed}."] if seed is not None else []
    return [*sources, *([f"Rows: {rows}."] if rows else []), *split, *account.proof]


def _slug(text: str) -> str:
    return re.sub(r"[^a-z0-9.]+", "-", text.casefold()).strip("-.") or "model"

"""The whole way: cases -> prompts -> training -> adapter -> evaluation -> report.

``run`` is what ``medimind run`` does, and each part of it is what the command of that name does.
Progress goes to a ``Display``, so that a terminal, a notebook or a test shows it as it likes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from medimind.cases.case import Case
from medimind.cases.prepare import PreparedCases, prepare_cases
from medimind.config.recipe import Recipe
from medimind.errors import EvaluationError
from medimind.evaluation.before_after import Evaluation, compare_before_after
from medimind.evaluation.comparison import MetricComparison
from medimind.evaluation.evidence import NO_EVIDENCE, Evidence
from medimind.evaluation.gather import gather_evidence
from medimind.evaluation.report import write_report
from medimind.models.adapter import load_adapter
from medimind.models.load import Model, load_model
from medimind.models.lora import attach_lora, lora_parameters
from medimind.packing.audit import audit_labels
from medimind.prompts.prompt import Prompt
from medimind.prompts.render import render_cases
from medimind.prompts.templates import Template, get_template
from medimind.tracking import provenance
from medimind.tracking.build import build_trackers
from medimind.tracking.jsonl import read_metrics
from medimind.tracking.run_folder import (
    RunFolder,
    create_run_folder,
    fingerprint,
    open_run_folder,
)
from medimind.tracking.tracker import Scalar, Tracker
from medimind.training.optimizer import require_optimizer
from medimind.training.resume import resume_step
from medimind.training.run import TrainResult, planned_steps, train

_log = logging.getLogger(__name__)


class Display(Protocol):
    """Where a run shows what it does."""

    def stage(self, title: str) -> None:
        """Announce the next part of the way."""
        ...

    def note(self, text: str) -> None:
        """Show a fact."""
        ...

    def progress(self, title: str, done: int, total: int) -> None:
        """How much of a long work is done."""
        ...

    def training(self, total_steps: int) -> AbstractContextManager[Tracker]:
        """The progress of the training, fed as a tracker."""
        ...


@dataclass(frozen=True, slots=True)
class RunResult:
    """What a run came to; ``evaluation`` is ``None`` where training was stopped before its end."""

    folder: RunFolder
    training: TrainResult
    evaluation: Evaluation | None
    evidence: Evidence = NO_EVIDENCE


@dataclass(frozen=True, slots=True)
class EvaluatedRun:
    """A run folder, its comparison, and what was measured beside it."""

    folder: RunFolder
    evaluation: Evaluation
    evidence: Evidence = NO_EVIDENCE


def run(recipe: Recipe, *, display: Display, resume: bool = False) -> RunResult:
    """Walk the whole way; what was done before is not done again.

    Raises:
        MediMindError: Something of the recipe, its data or its model is wrong.
    """
    started = time.monotonic()
    require_optimizer(recipe.train.optimizer)
    folder = create_run_folder(recipe)
    cases = prepare(recipe, folder, display)
    model = load_base(recipe, display)
    training, tracker = train_adapter(
        recipe, folder, cases, model, display, resume=resume, started=started
    )
    result = RunResult(folder, training, None)
    if training.finished:
        found = evaluate(recipe, folder, cases, model, display)
        log_before_after(found, tracker)
        result = RunResult(folder, training, found.evaluation, found.evidence)
    tracker.finish({"stop_reason": training.stop_reason, "steps": training.final_step})
    return result


def train_only(recipe: Recipe, *, display: Display, resume: bool = False) -> RunResult:
    """The way up to the adapter."""
    started = time.monotonic()
    require_optimizer(recipe.train.optimizer)
    folder = create_run_folder(recipe)
    cases = prepare(recipe, folder, display)
    model = load_base(recipe, display)
    training, tracker = train_adapter(
        recipe, folder, cases, model, display, resume=resume, started=started
    )
    tracker.finish({"stop_reason": training.stop_reason, "steps": training.final_step})
    return RunResult(folder, training, None)


def evaluate_run(path: Path, *, overrides: Sequence[str] = (), display: Display) -> EvaluatedRun:
    """The comparison of a run that was trained before.

    Raises:
        EvaluationError: The run has no adapter yet, its data changed since, or an override is
            about something else than the evaluation.
    """
    folder, recipe = open_run_folder(path, overrides=overrides)
    if not folder.adapter.is_dir():
        raise EvaluationError(
            "the run has no adapter yet",
            where=str(path),
            fix=f"Train it first: medimind train {folder.recipe} --resume",
        )
    cases = prepare(recipe, folder, display)
    before = folder.read_json("provenance.json").get("data_sha256")
    if before not in (None, cases.sha256):
        raise EvaluationError(
            "the cases changed since this run was trained, so held-out cases may have been "
            "trained on",
            where=str(path),
            fix="Restore the data, or train again into another folder",
        )
    model = load_base(recipe, display)
    load_adapter(folder.adapter, model.decoder, base_sha256=model.sha256)
    return evaluate(recipe, folder, cases, model, display)


def prepare(recipe: Recipe, folder: RunFolder, display: Display) -> PreparedCases:
    """Load, check and split the cases; the account of every row goes to ``data.json``."""
    display.stage("Cases")
    cases = prepare_cases(recipe.data, base_folder=Path.cwd(), seed=recipe.train.seed)
    folder.write_json("data.json", cases.summary)
    loaded = cases.loaded
    display.note(
        f"{loaded.rows_in} rows = {len(loaded.cases)} kept + {len(loaded.rejections)} rejected "
        f"+ {len(loaded.duplicates)} duplicates"
    )
    display.note(f"{len(cases.train)} to train on, {len(cases.held_out)} held out")
    return cases


def load_base(recipe: Recipe, display: Display) -> Model:
    """The base model of the recipe, quantised."""
    display.stage("Model")
    started = time.monotonic()
    model = load_model(recipe.model)
    display.note(
        f"{model.name}: {model.quantization} base, {str(model.dtype).removeprefix('torch.')} on "
        f"{model.device}, loaded in {time.monotonic() - started:.1f} s"
    )
    return model


def train_adapter(
    recipe: Recipe,
    folder: RunFolder,
    cases: PreparedCases,
    model: Model,
    display: Display,
    *,
    resume: bool = False,
    started: float | None = None,
) -> tuple[TrainResult, Tracker]:
    """Attach an adapter to the model and train it; the tracker is still open for the evaluation.

    The model holds the adapter of ``folder.adapter`` afterwards, read back from its files.
    """
    display.stage("Training")
    template = get_template(recipe.prompt)
    prompts, weights = training_prompts(recipe, cases, model, template, display)
    watched = cases.held_out if recipe.train.evaluate_every else ()
    held_out = held_out_prompts(recipe, watched, model, template)
    lora = recipe.lora
    attach_lora(
        model.decoder,
        rank=lora.rank,
        alpha=lora.alpha,
        dropout=lora.dropout,
        rslora=lora.rslora,
        targets=lora.targets,
        seed=recipe.train.seed,
    )
    num_trained = sum(parameter.numel() for parameter in lora_parameters(model.decoder).values())
    display.note(f"{num_trained:,} adapter parameters, rank {lora.rank}")
    mark = fingerprint(recipe, data_sha256=cases.sha256, model_sha256=model.sha256)
    write_provenance(recipe, folder, cases, model, mark)
    total = planned_steps(recipe.train, num_rows=len(prompts), weights=weights)
    with display.training(total) as progress:
        tracker = build_trackers(
            recipe.tracking,
            folder.path,
            run_name=recipe.name,
            recipe=recipe.model_dump(mode="json", by_alias=True),
            resume_step=resume_step(folder.path),
            extra=(progress,),
        )
        result = train(
            recipe.train,
            model=model,
            train=prompts,
            weights=weights,
            held_out=held_out,
            tracker=tracker,
            folder=folder.path,
            fingerprint=mark,
            resume=resume,
            started=started,
        )
    display.note(_account(result))
    if result.finished:
        load_adapter(folder.adapter, model.decoder, base_sha256=model.sha256)
    return result, tracker


def evaluate(
    recipe: Recipe,
    folder: RunFolder,
    cases: PreparedCases,
    model: Model,
    display: Display,
) -> EvaluatedRun:
    """Compare the model with the adapter off and on, and write the report.

    Raises:
        EvaluationError: No case is held out.
    """
    if not cases.held_out:
        raise EvaluationError(
            "no case is held out, so nothing can be compared",
            where=str(folder.recipe),
            fix="Set data.held_out.rows and train again",
        )
    display.stage("Before and after")
    template = get_template(recipe.prompt)
    evaluation = compare_before_after(
        model,
        cases.held_out,
        template=template,
        config=recipe.evaluation,
        folder=folder.evaluation,
        show_options=recipe.prompt.show_options,
        progress=display.progress,
    )
    evidence = gather_evidence(
        model,
        train=cases.train,
        held_out=cases.held_out,
        arms=[arm.name for arm in evaluation.arms],
        template=template,
        config=recipe.evaluation,
        folder=folder.evaluation,
        show_options=recipe.prompt.show_options,
        progress=display.progress,
    )
    write_report(
        folder.path,
        evaluation,
        curves=read_metrics(folder.metrics),
        provenance=folder.read_json("provenance.json"),
        data_summary={**cases.summary, "train_ids": [case.id for case in cases.train]},
        evidence=evidence,
    )
    return EvaluatedRun(folder, evaluation, evidence)


def training_prompts(
    recipe: Recipe,
    cases: PreparedCases,
    model: Model,
    template: Template,
    display: Display,
) -> tuple[tuple[Prompt, ...], tuple[float, ...] | None]:
    """The training cases as tokens after the label audit, and how often each is taken.

    Raises:
        PackingError: The audit found rows that would be cut or teach nothing.
    """
    rendered = render_cases(
        cases.train,
        template=template,
        tokenizer=model.tokenizer,
        with_options=recipe.prompt.show_options,
    )
    for rejected in rendered.rejected:
        _log.warning("%s is left out: %s", rejected.case_id, rejected.reason)
    audit = audit_labels(
        rendered.prompts,
        max_length=recipe.train.max_length,
        max_truncated_share=recipe.train.max_truncated_share,
        drop_targetless=recipe.train.drop_targetless,
    )
    for row in audit.left_out:
        _log.warning("%s is left out: %s (%d tokens)", row.case_id, row.left_out, row.num_tokens)
    tokens = sum(row.num_tokens for row in audit.rows if not row.left_out)
    targets = sum(row.num_targets for row in audit.rows if not row.left_out)
    display.note(
        f"{len(audit.kept)} rows, {tokens:,} tokens, {targets:,} of them targets; "
        f"{len(audit.left_out) + len(rendered.rejected)} rows left out, none cut"
    )
    weights = tuple(cases.train_weights[rendered.indices[index]] for index in audit.kept_indices)
    return audit.kept, weights if set(weights) != {1.0} else None


def held_out_prompts(
    recipe: Recipe, held_out: Sequence[Case], model: Model, template: Template
) -> tuple[Prompt, ...]:
    """The held-out cases as tokens, for the loss during training."""
    rendered = render_cases(
        held_out,
        template=template,
        tokenizer=model.tokenizer,
        with_options=recipe.prompt.show_options,
    )
    limit = recipe.train.max_length
    fitting = tuple(prompt for prompt in rendered.prompts if len(prompt.token_ids_S) <= limit)
    if left_out := len(held_out) - len(fitting):
        _log.warning(
            "the held-out loss during training leaves out %d of %d cases: longer than %d tokens",
            left_out,
            len(held_out),
            limit,
        )
    return fitting


def write_provenance(
    recipe: Recipe, folder: RunFolder, cases: PreparedCases, model: Model, mark: str
) -> None:
    """Note what the run was made of."""
    value: dict[str, Any] = {
        **provenance.collect(seed=recipe.train.seed, folder=Path.cwd()),
        "fingerprint": mark,
        "data_sha256": cases.sha256,
        "model": {
            "name": model.name,
            "revision": model.revision,
            "sha256": model.sha256,
            "quantization": model.quantization,
            "dtype": model.arithmetic.removeprefix("torch."),
            "device": str(model.device),
        },
        "recipe": recipe.model_dump(mode="json", by_alias=True),
    }
    folder.write_json("provenance.json", value)


def log_before_after(found: EvaluatedRun, tracker: Tracker) -> None:
    """Give the table of before and after to the trackers, and that of the benchmarks."""
    columns = ("metric", "before", "after", "difference", "low", "high", "verdict")
    rows = [_metric_cells(metric) for metric in found.evaluation.main.metrics]
    tracker.log_table("before_after", columns=columns, rows=rows)
    compared = found.evidence.benchmarks
    if compared is not None:
        titles = ("benchmark", "before_model", "after_model", *columns)
        cells = [
            (one.benchmark, one.before_title, one.after_title, *_metric_cells(metric))
            for one in compared.comparisons
            for metric in one.metrics
        ]
        tracker.log_table("benchmarks", columns=titles, rows=cells)


def _metric_cells(metric: MetricComparison) -> tuple[Scalar, ...]:
    interval = metric.interval
    return (
        metric.title,
        metric.before,
        metric.after,
        metric.difference,
        interval.low if interval else None,
        interval.high if interval else None,
        metric.verdict,
    )


def set_aside(folder: Path) -> Path | None:
    """Move an earlier run out of the way, under a dated name; nothing is deleted."""
    if not folder.exists():
        return None
    aside = folder.with_name(f"{folder.name}.{datetime.now():%Y%m%d-%H%M%S}")
    folder.rename(aside)
    return aside


def _account(result: TrainResult) -> str:
    if result.already_finished:
        return f"finished before, at step {result.final_step}: nothing to train"
    speed = result.num_targets / result.seconds if result.seconds else 0.0
    ending = {
        "completed": "all steps done",
        "early_stopping": "stopped early: the held-out loss no longer falls",
        "signal": "stopped by a signal, saved; go on with --resume",
        "time_limit": "stopped before the time limit, saved; go on with --resume",
    }[result.stop_reason]
    return (
        f"{result.final_step} of {result.num_steps} steps in {result.seconds:.0f} s, "
        f"{speed:,.0f} target tokens/s; {ending}"
    )

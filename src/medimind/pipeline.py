"""The whole way: cases -> prompts -> training -> adapter -> evaluation -> report.

``run`` is what ``medimind run`` does, and each part of it is what the command of that name does.
Progress goes to a ``Display``, so that a terminal, a notebook or a test shows it as it likes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from medimind.cases.prepare import PreparedCases, prepare_cases
from medimind.config.recipe import Recipe
from medimind.errors import EvaluationError
from medimind.evaluation.before_after import Evaluation, compare_before_after
from medimind.evaluation.comparison import MetricComparison
from medimind.evaluation.evidence import NO_EVIDENCE, Evidence
from medimind.evaluation.gather import gather_evidence
from medimind.evaluation.report import write_report
from medimind.export.deliver import Delivered
from medimind.export.run_files import Loaded, check_quantizations, export_at_end
from medimind.models.adapter import load_adapter
from medimind.models.load import Model, load_model
from medimind.models.lora import attach_lora, lora_parameters
from medimind.prompts.templates import get_template
from medimind.tracking import provenance
from medimind.tracking.build import build_trackers, require_trackers
from medimind.tracking.jsonl import read_metrics
from medimind.tracking.run_folder import (
    RunFolder,
    create_run_folder,
    fingerprint,
    open_run_folder,
    trained_adapter,
)
from medimind.tracking.tracker import Scalar, Tracker
from medimind.training.optimizer import require_optimizer
from medimind.training.resume import refuse_unfinished, resume_step
from medimind.training.rows import held_out_prompts, training_prompts
from medimind.training.run import TrainResult, planned_steps, train


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
    """What a run came to.

    Attributes:
        folder: Where everything is.
        training: How the training ended.
        evaluation: Before and after; ``None`` where training was stopped before its end.
        evidence: What was measured beside it.
        exported: Files for other programs that were written now.
    """

    folder: RunFolder
    training: TrainResult
    evaluation: Evaluation | None
    evidence: Evidence = NO_EVIDENCE
    exported: tuple[Delivered, ...] = ()


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
    folder = open_for_training(recipe, resume=resume)
    cases = prepare(recipe, folder, display)
    model = load_base(recipe, display)
    training, tracker = train_adapter(
        recipe, folder, cases, model, display, resume=resume, started=started
    )
    result = RunResult(folder, training, None)
    if training.finished:
        found = evaluate(recipe, folder, cases, model, display)
        log_before_after(found, tracker)
        files = export_files(recipe, folder, cases, model, display)
        result = RunResult(folder, training, found.evaluation, found.evidence, tuple(files))
    tracker.finish({"stop_reason": training.stop_reason, "steps": training.final_step})
    return result


def train_only(recipe: Recipe, *, display: Display, resume: bool = False) -> RunResult:
    """The way up to the adapter."""
    started = time.monotonic()
    folder = open_for_training(recipe, resume=resume)
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
        AdapterError: The run has no adapter yet.
        ConfigError: An override is about what was learned.
        EvaluationError: The data changed since.
    """
    folder, recipe = open_run_folder(path, overrides=overrides)
    adapter = trained_adapter(folder)
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
    load_adapter(adapter, model.decoder, base_sha256=model.sha256)
    return evaluate(recipe, folder, cases, model, display)


def open_for_training(recipe: Recipe, *, resume: bool) -> RunFolder:
    """The run's folder, once everything that could stop the run later was looked at.

    Raises:
        ConfigError: The folder holds a run that would learn something else or cannot be written,
            or W&B is to be used online without an API key.
        ExportError: A quantisation to be written at the end is unknown.
        MissingExtraError: A package that the recipe needs is not installed.
        ResumeError: The folder holds an unfinished run that was not asked to be resumed.
    """
    require_optimizer(recipe.train.optimizer)
    require_trackers(recipe.tracking)
    check_quantizations(recipe.export.quantizations)
    folder = create_run_folder(recipe)
    if not resume:
        refuse_unfinished(folder.path)
    return folder


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
    prompts, weights = training_prompts(recipe, cases, tokenizer=model.tokenizer, note=display.note)
    watched = cases.held_out if recipe.train.evaluate_every else ()
    held_out = held_out_prompts(recipe, watched, tokenizer=model.tokenizer)
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


def export_files(
    recipe: Recipe, folder: RunFolder, cases: PreparedCases, model: Model, display: Display
) -> list[Delivered]:
    """Write the files for other programs that the recipe asks for, each verified.

    Raises:
        ExportError: If a file cannot be written.
    """
    if recipe.export.to is None:
        return []
    display.stage("Files for other programs")
    return export_at_end(folder, recipe, Loaded(model, cases), watch=display)


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

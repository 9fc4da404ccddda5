"""``medimind compare``: results of two or more models, of ours or of other programs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

import click
from rich.markup import escape

from medimind.cli.arguments import output_option, show_path
from medimind.cli.display import TerminalDisplay
from medimind.cli.judge import judge_option, print_judged, read_judges
from medimind.cli.outcome import print_comparison
from medimind.cli.terminal import console, progress_console

if TYPE_CHECKING:
    from medimind.evaluation.compare import ResultComparison
    from medimind.evaluation.evidence import Evidence
    from medimind.evaluation.results import ResultSet


@click.command("compare")
@click.argument("results", nargs=-1, required=True, metavar="[NAME=]RESULTS...")
@click.option(
    "--mapping",
    type=click.Path(path_type=Path),
    help="YAML file that says where files of another program hold their fields.",
)
@click.option(
    "--control", metavar="[NAME=]RESULTS", help="A model that all others are held to too."
)
@click.option(
    "--common", is_flag=True, help="Compare only the cases that all files have, and say so."
)
@click.option(
    "--confidence",
    type=click.FloatRange(0.5, 1, min_open=True, max_open=True),
    default=0.95,
    show_default=True,
    help="Level of the intervals.",
)
@click.option("--seed", type=click.IntRange(0), default=0, show_default=True, help="Of resampling.")
@output_option("Folder for a report of it all.")
@click.option(
    "--trained-on",
    type=click.Path(path_type=Path),
    metavar="RUN",
    help="Search the training rows of this run for the cases.",
)
@judge_option("A model that judges open answers; two at most.")
def command(
    results: tuple[str, ...],
    mapping: Path | None,
    control: str | None,
    common: bool,
    confidence: float,
    seed: int,
    out: Path | None,
    trained_on: Path | None,
    judges: tuple[str, ...],
) -> None:
    """Compare two or more models, paired by case, against the first.

    RESULTS are files of `RUN/evaluation`, run folders, which stand for their tuned model, folders
    of `medimind evaluate --benchmark`, which stand for all models in them, or, with a mapping,
    files of another program. One such file that holds verdicts of its own is scored again.

    \b
    medimind compare runs/starter/evaluation/base.jsonl runs/starter
    medimind compare runs/rank-16 runs/rank-32 --control llama=llama-3.1-8b.jsonl
    medimind compare their-results.json --mapping their-fields.yaml --out runs/theirs
    """
    from medimind.evaluation.compare import compare_results
    from medimind.evaluation.results import split_native
    from medimind.evaluation.same_cases import pair_by_question

    if (trained_on or judges) and out is None:
        raise click.UsageError("--trained-on and --judge go into a report: name its folder, --out")
    sets = [one for text in results for one in _read(text, mapping)]
    controls = _read(control, mapping) if control else []
    if len(controls) > 1:
        raise click.UsageError("--control takes the results of one model")
    if control is None:
        sets, native = split_native(sets)
        controls = [native] if native else []
    if len(sets) < 2 and not any(one.verdicts for one in sets):
        raise click.UsageError("give the results of at least two models")
    # The control is found by its questions too.
    sets = pair_by_question([*sets, *controls])
    sets, controls = sets[: len(sets) - len(controls)], sets[len(sets) - len(controls) :]
    compared = compare_results(
        sets,
        on_difference="common" if common else "stop",
        control=controls[0] if controls else None,
        seed=seed,
        confidence=confidence,
    )
    _print(compared)
    if out is not None:
        sets = [*sets, *controls]
        evidence = _evidence(sets, out, trained_on=trained_on, judges=judges, confidence=confidence)
        _report(out, compared, sets, evidence, seed=seed)


def _print(compared: ResultComparison) -> None:
    for warning in compared.warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}")
    for comparison in compared.comparisons:
        about = f"{escape(comparison.benchmark)}: " if comparison.benchmark else ""
        titles = f"{escape(comparison.before_title)} -> {escape(comparison.after_title)}"
        console.print(f"\n[bold]{about}{titles}[/]")
        told = tuple(text for text in comparison.warnings if text not in compared.warnings)
        print_comparison(dataclasses.replace(comparison, warnings=told))
    for one in compared.agreements:
        console.print(
            f"{one.name}: of {one.num} outputs the file counts "
            f"{one.both_right + len(one.only_theirs)} as right, our rule "
            f"{one.both_right + len(one.only_ours)}; {one.both_right} in common",
            markup=False,
        )


def _evidence(
    sets: list[ResultSet],
    out: Path,
    *,
    trained_on: Path | None,
    judges: tuple[str, ...],
    confidence: float,
) -> Evidence:
    """What the judges say, and whether the cases were trained on."""
    from medimind.evaluation.evidence import Evidence
    from medimind.evaluation.judge.open import judge_records
    from medimind.evaluation.results import JUDGES
    from medimind.evaluation.trained_on import overlaps, training_cases

    records = [dataclasses.replace(r, arm=one.name) for one in sets for r in one.records]
    display = TerminalDisplay(progress_console)
    judged = judge_records(
        records,
        judges=read_judges(judges),
        folder=out / JUDGES,
        titles={one.name: one.shown for one in sets},
        confidence=confidence,
        progress=display.progress,
    )
    print_judged(judged, asked=bool(judges))
    return Evidence(
        judged=judged,
        overlaps=overlaps(training_cases(trained_on), records) if trained_on else (),
    )


def _report(
    out: Path,
    compared: ResultComparison,
    sets: list[ResultSet],
    evidence: Evidence,
    *,
    seed: int,
) -> None:
    from medimind.evaluation.compare import UNNAMED
    from medimind.evaluation.report import write_comparison_report
    from medimind.evaluation.report.evidence import overlap_warnings
    from medimind.tracking.provenance import collect

    for warning in overlap_warnings(evidence.overlaps, unnamed=UNNAMED):
        console.print(f"[yellow]warning:[/] {escape(warning)}")
    files = write_comparison_report(
        out,
        compared,
        sets=sets,
        provenance=collect(seed=seed, folder=Path.cwd()),
        evidence=evidence,
    )
    console.print(f"\nreport   {show_path(files.html)}")


def _read(text: str, mapping: Path | None) -> list[ResultSet]:
    """The results behind ``[NAME=]PATH``; several where a file or folder holds several models."""
    from medimind.evaluation.mapping import read_mapping
    from medimind.evaluation.results import (
        is_benchmark_folder,
        is_ours,
        read_arms,
        read_benchmarks,
        read_results,
    )

    name, _, rest = text.partition("=")
    path = Path(rest or name) if not Path(text).exists() else Path(text)
    if is_benchmark_folder(path):
        found = read_benchmarks(path)
    elif mapping is not None and not is_ours(path):
        found = read_arms(path, mapping=read_mapping(mapping))
    else:
        found = [read_results(path)]
    if rest and path == Path(rest):
        several = len(found) > 1
        named = [f"{name}, {one.name}" if several else name for one in found]
        found = [dataclasses.replace(one, name=new) for one, new in zip(found, named, strict=True)]
    return found

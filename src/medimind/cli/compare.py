"""``medimind compare``: files of results against the first of them."""

from __future__ import annotations

from pathlib import Path

import click
from rich.markup import escape

from medimind.cli.outcome import print_comparison
from medimind.cli.terminal import console


@click.command("compare")
@click.argument("results", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "--common", is_flag=True, help="Compare only the cases that all files have, and say so."
)
def command(results: tuple[Path, ...], common: bool) -> None:
    """Compare two or more files of RESULTS, paired by case, against the first.

    RESULTS are files of `RUN/evaluation`, or run folders, which stand for their tuned model.

    \b
    medimind compare runs/starter/evaluation/base.jsonl runs/starter
    medimind compare runs/rank-16 runs/rank-32
    """
    from medimind.evaluation.compare import compare_results, read_results

    if len(results) < 2:
        raise click.UsageError("give at least two files or run folders")
    compared = compare_results(
        [read_results(path) for path in results], on_difference="common" if common else "stop"
    )
    for warning in compared.warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}")
    for comparison in compared.comparisons:
        console.print(f"\n[bold]{comparison.before_title} -> {comparison.after_title}[/]")
        print_comparison(comparison)

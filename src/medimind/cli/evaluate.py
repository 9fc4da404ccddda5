"""``medimind evaluate``: before and after of a trained run."""

from __future__ import annotations

from pathlib import Path

import click

from medimind.cli.arguments import show_path
from medimind.cli.display import TerminalDisplay
from medimind.cli.outcome import print_evaluation
from medimind.cli.terminal import console, progress_console


@click.command("evaluate")
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
def command(run_folder: Path, overrides: tuple[str, ...]) -> None:
    """Compare the model of RUN with its adapter off and on, and write the report.

    RUN is a folder that `medimind run` or `medimind train` wrote. Items that were answered before
    under the same settings are not asked again.

    \b
    medimind evaluate runs/starter evaluation.decoding.max_new_tokens=512
    """
    from medimind.pipeline import evaluate_run

    result = evaluate_run(
        run_folder, overrides=overrides, display=TerminalDisplay(progress_console)
    )
    print_evaluation(result.evaluation)
    console.print(f"\nreport   {show_path(result.folder.report)}")

"""``medimind run``: the whole way, from cases to the report."""

from __future__ import annotations

import click

from medimind.cli.arguments import (
    read_recipe,
    recipe_arguments,
    resume_line,
    show_path,
    start_over,
    training_options,
    type_path,
)
from medimind.cli.delivered import EXIT_NOT_GOOD, show_delivered
from medimind.cli.display import TerminalDisplay
from medimind.cli.outcome import print_evaluation, print_evidence
from medimind.cli.terminal import console, progress_console


@click.command("run")
@recipe_arguments
@training_options
def command(recipe: str, overrides: tuple[str, ...], resume: bool, restart: bool) -> int:
    """Walk the whole way of RECIPE: cases, training, before and after, report, files to take home.

    RECIPE is a YAML file or the name of a ready recipe. A finished run that is run again does
    nothing and says so.

    \b
    medimind run starter
    medimind run starter output=runs/rank-32 lora.rank=32
    """
    from medimind.cli.main import EXIT_STOPPED
    from medimind.pipeline import run

    settings = read_recipe(recipe, overrides)
    start_over(settings, restart=restart)
    result = run(settings, display=TerminalDisplay(progress_console), resume=resume)
    if result.evaluation is None:
        again = resume_line("run", recipe, overrides)
        console.print(f"Stopped and saved. Go on with: {again}", markup=False)
        return EXIT_STOPPED
    print_evaluation(result.evaluation)
    print_evidence(result.evidence)
    if result.exported:
        console.print()
        show_delivered(result.exported, better=None)
    path = type_path(result.folder.path)
    console.print(f"\nadapter  {show_path(result.folder.adapter)}", markup=False)
    console.print(f"report   {show_path(result.folder.report)}", markup=False)
    console.print(f'try it   medimind ask "..." --run {path}', markup=False)
    if settings.export.to is not None:
        console.print(f"phone    medimind serve {path} --host 0.0.0.0 --tls auto", markup=False)
    return EXIT_NOT_GOOD if any(one.problems for one in result.exported) else 0

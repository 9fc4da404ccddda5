"""``medimind train``: the adapter only."""

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
from medimind.cli.display import TerminalDisplay
from medimind.cli.terminal import console, progress_console


@click.command("train")
@recipe_arguments
@training_options
def command(recipe: str, overrides: tuple[str, ...], resume: bool, restart: bool) -> int:
    """Train the adapter of RECIPE, without the comparison.

    \b
    medimind train starter lora.rank=32 output=runs/rank-32
    """
    from medimind.cli.main import EXIT_STOPPED
    from medimind.pipeline import train_only

    settings = read_recipe(recipe, overrides)
    start_over(settings, restart=restart)
    result = train_only(settings, display=TerminalDisplay(progress_console), resume=resume)
    if not result.training.finished:
        again = resume_line("train", recipe, overrides)
        console.print(f"Stopped and saved. Go on with: {again}", markup=False)
        return EXIT_STOPPED
    console.print(f"adapter  {show_path(result.folder.adapter)}", markup=False)
    console.print(f"compare  medimind evaluate {type_path(result.folder.path)}", markup=False)
    return 0

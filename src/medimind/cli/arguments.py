"""Arguments that several commands take."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import click

from medimind.cli.terminal import progress_console
from medimind.config.catalogue import find_recipe
from medimind.config.load import load_recipe
from medimind.config.recipe import Recipe

Command = Callable[..., Any]


def recipe_arguments(function: Command) -> Command:
    """``RECIPE [KEY=VALUE]...``."""
    function = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")(function)
    return click.argument("recipe")(function)


def training_options(function: Command) -> Command:
    """``--resume`` and ``--restart``."""
    function = click.option(
        "--restart", is_flag=True, help="Move an earlier run aside and start over."
    )(function)
    return click.option("--resume", is_flag=True, help="Go on with an unfinished run.")(function)


def read_recipe(name: str, overrides: tuple[str, ...]) -> Recipe:
    """The recipe of that file or name, with overrides."""
    return load_recipe(find_recipe(name), overrides=overrides)


def start_over(recipe: Recipe, *, restart: bool) -> None:
    """Move the run folder aside if asked to."""
    from medimind.pipeline import set_aside

    aside = set_aside(recipe.run_folder) if restart else None
    if aside:
        progress_console.print(f"the earlier run is kept in {aside}")


def resume_line(command: str, recipe: str, overrides: Sequence[str]) -> str:
    """What to type to go on with a stopped run: the same words, and ``--resume``."""
    return shlex.join(["medimind", command, recipe, *overrides, "--resume"])


def show_path(path: Path) -> str:
    """The path as short as it can be said from here."""
    relative = os.path.relpath(path)
    return str(path) if relative.startswith("..") else relative


def type_path(path: Path) -> str:
    """The same, quoted where a shell would take it for several words."""
    return shlex.quote(show_path(path))

"""Arguments that several commands take."""

from __future__ import annotations

import json
import os
import shlex
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any, get_args

import click
from click.core import ParameterSource

from medimind.cases.sources.files import SUFFIXES
from medimind.cli.terminal import progress_console
from medimind.config.catalogue import find_recipe
from medimind.config.load import load_recipe
from medimind.config.prompt import TemplateName
from medimind.config.recipe import Recipe
from medimind.errors import ConfigError

Command = Callable[..., Any]
TEMPLATES = tuple(name for name in get_args(TemplateName) if name != "custom")


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
    """The recipe of that file or name, with overrides.

    Raises:
        ConfigError: There is no such recipe, it is wrong, or a file of cases is given in its place.
    """
    path = find_recipe(name)
    if path.suffix.lower() in SUFFIXES:
        source = f"data.sources=[{{source: file, path: {json.dumps(str(path))}}}]"
        raise ConfigError(
            "this is a file of cases, not a recipe",
            where=name,
            fix=f"Look at it with 'medimind data inspect', and put it into a recipe's "
            f"data.sources, or in the place of the starter's: "
            f"medimind run starter {shlex.quote(source)}",
        )
    return load_recipe(path, overrides=overrides)


def output_option(help: str) -> Callable[[Command], Command]:
    """``-o``, ``--out``: the folder that a command writes."""
    kind = click.Path(file_okay=False, path_type=Path)
    return click.option("-o", "--out", type=kind, help=help)


def decoding_options(
    *,
    max_new_tokens: int | None = None,
    temperature: float | None = None,
    top_p: float | None = None,
    seed: int | None = None,
) -> Callable[[Command], Command]:
    """How answers are generated, with these defaults; without one, a recipe decides."""
    positive, share = click.IntRange(1), click.FloatRange(0, 1, min_open=True)
    options = (
        ("--max-new-tokens", positive, max_new_tokens, "Longest answer, its thinking included."),
        ("--thinking-budget", positive, None, "Close the thinking after this many tokens."),
        ("--temperature", click.FloatRange(0), temperature, "0 takes the likeliest token."),
        ("--top-p", share, top_p, "Draw from the likeliest tokens that make up this share."),
        ("--seed", click.IntRange(0), seed, "Of the drawing."),
    )

    def decorate(function: Command) -> Command:
        for name, kind, default, help in reversed(options):
            add = click.option(name, type=kind, default=default, show_default=True, help=help)
            function = add(function)
        return function

    return decorate


def refuse_options(names: Collection[str], reason: str) -> None:
    """Refuse options of these names that were given: none is left aside silently."""
    context = click.get_current_context()
    for parameter in context.command.params:
        source = context.get_parameter_source(parameter.name or "")
        if parameter.name in names and source is ParameterSource.COMMANDLINE:
            raise click.UsageError(f"{parameter.opts[0]}: {reason}")


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
    try:
        relative = os.path.relpath(path)
    except ValueError:  # on another drive of Windows
        return str(path)
    return str(path) if relative.startswith("..") else relative


def type_path(path: Path) -> str:
    """The same, quoted where a shell would take it for several words."""
    return shlex.quote(show_path(path))

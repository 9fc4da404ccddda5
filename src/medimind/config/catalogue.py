"""The recipes that come with MediMind."""

from __future__ import annotations

import difflib
from pathlib import Path

from medimind.errors import ConfigError

_PACKAGE = Path(__file__).resolve().parents[1]


def recipe_folder() -> Path:
    """The folder of ready recipes: inside an installed package, or at a checkout's root."""
    installed = _PACKAGE / "recipes"
    return installed if installed.is_dir() else _PACKAGE.parents[1] / "recipes"


def list_recipes() -> tuple[Path, ...]:
    """The files of the ready recipes, by name."""
    return tuple(sorted(recipe_folder().glob("*.yaml")))


def find_recipe(name: str) -> Path:
    """The file of a recipe given as a path, or by the name of a ready one.

    A folder of the name, such as the run itself for who works in ``runs``, hides no ready recipe.

    Raises:
        ConfigError: There is no such file or recipe.
    """
    path = Path(name)
    ready = {recipe.stem: recipe for recipe in list_recipes()}
    if path.exists() and not (path.is_dir() and name in ready):
        return path
    stem = path.name.removesuffix(".yaml").removesuffix(".yml")
    if stem in ready and path.parent in (Path(), Path("recipes")):
        return ready[stem]
    close = difflib.get_close_matches(stem, ready, n=1)
    raise ConfigError(
        "there is no such file, and no ready recipe of that name",
        where=name,
        fix=f"Did you mean '{close[0]}'?"
        if close
        else f"Ready recipes: {', '.join(ready)}. Paths start at {Path.cwd()}",
    )

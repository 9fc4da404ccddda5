"""``medimind recipe``: the ready recipes, and what one means with every setting resolved."""

from __future__ import annotations

import click
from rich.syntax import Syntax
from rich.table import Table

from medimind.cli.arguments import read_recipe, recipe_arguments
from medimind.cli.terminal import console
from medimind.config.catalogue import list_recipes
from medimind.config.load import dump_recipe, load_recipe


@click.group("recipe")
def command() -> None:
    """List recipes, and show one with every setting resolved."""


@command.command("list")
def list_() -> None:
    """The recipes that come with MediMind.

    \b
    medimind recipe list
    """
    table = Table(box=None, pad_edge=False)
    table.add_column("recipe", style="bold", no_wrap=True)
    table.add_column("model")
    table.add_column("what it is for")
    for path in list_recipes():
        recipe = load_recipe(path)
        table.add_row(recipe.name, recipe.model.path, recipe.description)
    console.print(table)


@command.command("show")
@recipe_arguments
def show(recipe: str, overrides: tuple[str, ...]) -> None:
    """The recipe with every default and override filled in, as YAML.

    \b
    medimind recipe show starter name=mine > mine.yaml
    """
    text = dump_recipe(read_recipe(recipe, overrides))
    if console.is_terminal:
        console.print(Syntax(text, "yaml", background_color="default"))
    else:
        click.echo(text, nl=False)


@command.command("validate")
@recipe_arguments
def validate(recipe: str, overrides: tuple[str, ...]) -> None:
    """Check a recipe; all its errors are listed at once.

    \b
    medimind recipe validate mine.yaml
    """
    loaded = read_recipe(recipe, overrides)
    console.print(f"{recipe} is valid")
    for key in loaded.data.unpinned:
        console.print(
            f"note: {key} pins no revision, so another run may see other rows. "
            f"Add {key}.revision=COMMIT",
            markup=False,
        )

"""``medimind data``: look at cases before anything is trained on them."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
from rich.table import Table

from medimind.cases.case import OPTION_LETTERS, Case
from medimind.cases.describe import describe_cases
from medimind.cases.load import LoadedCases, load_cases
from medimind.cases.prepare import prepare_cases
from medimind.cases.sources.files import SUFFIXES
from medimind.cli.arguments import output_option, read_recipe
from medimind.cli.terminal import console
from medimind.config.data import DataConfig
from medimind.config.lines import KeyPath, LinedYaml
from medimind.config.load import apply_override, validate_recipe
from medimind.config.recipe import Recipe
from medimind.errors import ConfigError, DataError
from medimind.tracking.run_folder import RunFolder, is_run

SHOWN_REJECTIONS = 20
RECIPE_ENDINGS = (".yaml", ".yml")


@click.group("data")
def command() -> None:
    """Look at cases: inspect, validate, split, stats.

    TARGET is a recipe, a run folder, which stands for its recipe, or a file or folder of JSON,
    JSONL, CSV or Parquet. All take settings of the section data, such as data.held_out.rows=100 or
    data.sources.0.schema=radiology.
    """


def _target(function: Callable[..., Any]) -> Callable[..., Any]:
    function = click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")(function)
    return click.argument("target")(function)


def _read_target(target: str, overrides: tuple[str, ...]) -> tuple[DataConfig, int]:
    """The data section and the seed that a recipe, a run, or a bare file or folder stands for."""
    path = Path(target)
    if is_run(path):
        recipe = read_recipe(str(RunFolder(path).recipe), overrides)
        sources = ", ".join(str(one.path or one.source) for one in recipe.data.sources)
        told = f"{target} is a run folder; read are the cases of its recipe.yaml: {sources}"
        click.echo(told, err=True)
    elif path.exists() and path.suffix not in RECIPE_ENDINGS:
        recipe = _recipe_of_cases(path, overrides)
    elif path.suffix.lower() in SUFFIXES:
        raise ConfigError(
            "there is no such file",
            where=target,
            fix=f"Paths start at {Path.cwd()}; check it",
        )
    else:
        recipe = read_recipe(target, overrides)
    return recipe.data, recipe.train.seed


def _recipe_of_cases(path: Path, overrides: tuple[str, ...]) -> Recipe:
    """A recipe whose only source is that file or folder; only its data section is used."""
    data: dict[str, Any] = {
        "name": "cases",
        "model": {"path": "none"},
        "train": {"steps": 1},
        "data": {"sources": [{"source": "file", "path": str(path)}]},
    }
    origins: dict[KeyPath, str] = {}
    for override in overrides:
        if not override.startswith(("data.", "train.seed=")):
            raise click.UsageError(
                f"'{override}': a file of cases takes data.KEY=VALUE and train.seed=NUMBER; "
                "other settings go with a recipe"
            )
        apply_override(data, override, origins)
    return validate_recipe(LinedYaml(data, {}, ()), path=path, origins=origins)


def _load(target: str, overrides: tuple[str, ...]) -> LoadedCases:
    config, _ = _read_target(target, overrides)
    return load_cases(config, base_folder=Path.cwd())


@command.command("inspect")
@_target
@click.option(
    "-n", "--number", type=click.IntRange(0), default=2, show_default=True, help="Cases to show."
)
def inspect(target: str, overrides: tuple[str, ...], number: int) -> None:
    """Show how the columns of TARGET are read, and its first cases.

    \b
    medimind data inspect cases.jsonl
    medimind data inspect ward.csv data.sources.0.schema=radiology -n 5
    """
    loaded = _load(target, overrides)
    for source in loaded.sources:
        for file in source.files:
            console.print(f"{file.path}: schema {file.schema}, {file.rows} rows", markup=False)
    for case in loaded.cases[:number]:
        _print_case(case)


@command.command("validate")
@_target
def validate(target: str, overrides: tuple[str, ...]) -> int:
    """Check every row of TARGET; exit code 1 if any was rejected.

    \b
    medimind data validate cases.jsonl
    """
    loaded = _load(target, overrides)
    for rejection in loaded.rejections[:SHOWN_REJECTIONS]:
        console.print(f"  {rejection}", markup=False)
    more = len(loaded.rejections) - SHOWN_REJECTIONS
    if more > 0:
        console.print(f"  ... and {more} more")
    _print_account(loaded)
    return 1 if loaded.rejections else 0


@command.command("stats")
@_target
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def stats(target: str, overrides: tuple[str, ...], as_json: bool) -> None:
    """Counts and lengths of the cases of TARGET.

    \b
    medimind data stats starter
    medimind data stats cases.jsonl --json
    """
    loaded = _load(target, overrides)
    figures = describe_cases(loaded.cases)
    if as_json:
        click.echo(json.dumps(figures, indent=2, ensure_ascii=False))
        return
    _print_account(loaded)
    _print_figures(figures)


@command.command("split")
@_target
@output_option("Write train.jsonl and held_out.jsonl into this folder.")
def split(target: str, overrides: tuple[str, ...], out: Path | None) -> None:
    """Split the cases of TARGET as a run would, with contamination taken out.

    \b
    medimind data split cases.jsonl data.held_out.rows=100 -o split
    """
    config, seed = _read_target(target, overrides)
    prepared = prepare_cases(config, base_folder=Path.cwd(), seed=seed)
    _print_account(prepared.loaded)
    hits = len(prepared.contamination)
    console.print(
        f"{len(prepared.train)} to train on, {len(prepared.held_out)} held out, "
        f"{hits} training cases that repeat held-out or benchmark items"
    )
    if out:
        for name, cases in (("train", prepared.train), ("held_out", prepared.held_out)):
            _write_cases(out / f"{name}.jsonl", cases)
            console.print(f"wrote {out / name}.jsonl", markup=False)


def _write_cases(path: Path, cases: tuple[Case, ...]) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            for case in cases:
                file.write(json.dumps(dataclasses.asdict(case), ensure_ascii=False) + "\n")
    except OSError as error:
        raise DataError(
            f"the file cannot be written: {error.strerror}",
            where=str(path),
            fix="Choose another folder with -o",
        ) from None


def _print_account(loaded: LoadedCases) -> None:
    console.print(
        f"{loaded.rows_in} rows = {len(loaded.cases)} kept + {len(loaded.rejections)} rejected "
        f"+ {len(loaded.duplicates)} duplicates"
    )


def _print_figures(figures: dict[str, Any]) -> None:
    table = Table(box=None, pad_edge=False)
    table.add_column("words")
    names = ("min", "median", "p90", "max", "mean")
    for name in names:
        table.add_column(name, justify="right")
    for part, quantiles in figures["words"].items():
        table.add_row(part, *(f"{quantiles.get(name, 0):.0f}" for name in names))
    console.print(table)
    for key in ("with_reasoning", "with_options", "with_answer"):
        console.print(f"{key.replace('_', ' ')}: {figures[key]} of {figures['cases']}")
    specialties = figures["by_specialty"]
    console.print("; ".join(f"{name} {count}" for name, count in specialties.items()), markup=False)


def _print_case(case: Case) -> None:
    console.rule(case.id, style="dim", align="left")
    for name in ("question", "reasoning", "response", "answer"):
        if text := getattr(case, name):
            console.print(f"[bold]{name}[/]")
            console.print(text, markup=False)
        if name == "question":
            for letter, option in zip(OPTION_LETTERS, case.options, strict=False):
                console.print(f"  {letter}. {option}", markup=False)

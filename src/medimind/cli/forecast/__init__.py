"""``medimind forecast``: how a disease goes on, from patients' own records."""

from __future__ import annotations

import importlib

import click

COMMANDS = {
    "demo": "The whole way on simulated patients, in minutes.",
    "validate": "Say what is wrong with records, row by row.",
    "fit": "Learn from records of many patients how values move.",
    "predict": "Forecast patients: trajectories, intervals, risks.",
    "report": "Pages for people: one of the cohort, one per patient.",
    "backtest": "Measure forecasts on patients that no model has seen.",
}


class LazyGroup(click.Group):
    """A group whose commands live in modules that are imported on use."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        """The names of the commands, in the order of use."""
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """The command of that name, imported now."""
        if cmd_name not in COMMANDS:
            return None
        return importlib.import_module(f"medimind.cli.forecast.{cmd_name}").command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """Write the list of commands without importing them."""
        with formatter.section("Commands"):
            formatter.write_dl(list(COMMANDS.items()))


@click.group("forecast", cls=LazyGroup)
def command() -> None:
    """Forecast how a disease goes on, from patients' own records."""

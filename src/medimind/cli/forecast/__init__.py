"""``medimind forecast``: how a disease goes on, from patients' own records."""

from __future__ import annotations

import click

from medimind.cli.lazy_group import LazyGroup

COMMANDS = {
    "demo": "The whole way on simulated patients, in minutes.",
    "validate": "Say what is wrong with records, row by row.",
    "fit": "Learn from records of many patients how values move.",
    "predict": "Forecast patients: trajectories, intervals, risks.",
    "report": "Pages for people: one of the cohort, one per patient.",
    "backtest": "Measure forecasts on patients that no model has seen.",
}


@click.group("forecast", cls=LazyGroup, commands=COMMANDS, package=__name__)
def command() -> None:
    """Forecast how a disease goes on, from patients' own records."""

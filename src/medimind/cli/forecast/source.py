"""Arguments and readings that the forecast commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medimind.cli.terminal import progress_console

if TYPE_CHECKING:
    from medimind.config.forecast import InputConfig
    from medimind.config.forecast_models import ForecastConfig
    from medimind.forecasting.records.findings import Validation
    from medimind.forecasting.records.table import Records


def records_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``RECORDS``, how its columns are named, and whether findings stop the command."""
    options = (
        click.argument("records", type=click.Path(path_type=Path)),
        click.option(
            "--input", "mapping", type=click.Path(path_type=Path),
            help="YAML that says what each column is, where its name does not: patient, time, "
            "time_unit, code, value, unit, status; of wide tables values; covariates, events, "
            "codes, units, limits.",
        ),
        click.option("--strict", is_flag=True, help="Stop at anything that validation finds."),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def read_mapping(path: Path | None) -> InputConfig:
    """The mapping of a YAML file, or the defaults."""
    from medimind.config.forecast import InputConfig, load_input_config

    return InputConfig() if path is None else load_input_config(path)


def read(path: Path, mapping: Path | None, *, strict: bool) -> Records:
    """The records of a file or folder; what was left out is printed."""
    from medimind.forecasting.records.read import read_records

    records, validation = read_records(path, read_mapping(mapping), strict=strict)
    print_left_out(validation)
    return records


def print_left_out(validation: Validation) -> None:
    """Rows in and kept, and how many were left out for what."""
    from medimind.forecasting.records.findings import KINDS

    progress_console.print(
        f"  {validation.rows_in:,} rows: {validation.rows_kept:,} kept, "
        f"{validation.left_out.total():,} left out",
        markup=False,
    )
    for kind, count in validation.left_out.most_common():
        progress_console.print(f"    {count:,}  {KINDS[kind].title} ({kind})", markup=False)
    for kind, count in validation.found.most_common():
        if not KINDS[kind].leaves_out:
            progress_console.print(f"    {count:,}  kept: {KINDS[kind].title}", markup=False)


def settings_options(function: Callable[..., Any]) -> Callable[..., Any]:
    """``--config`` and ``--leaspy``, of commands that fit."""
    options = (
        click.option(
            "--config", type=click.Path(path_type=Path), help="YAML with horizons, lines, experts."
        ),
        click.option(
            "--leaspy", type=click.Path(path_type=Path, exists=True),
            help="A Python that has leaspy, or a folder it was installed into: one more expert.",
        ),
    )  # fmt: skip
    for option in reversed(options):
        function = option(function)
    return function


def read_settings(path: Path | None, leaspy: Path | None = None) -> ForecastConfig:
    """The settings of a YAML file, or the defaults."""
    from medimind.config.forecast_models import ForecastConfig, LeaspyConfig, load_forecast_config

    settings = ForecastConfig() if path is None else load_forecast_config(path)
    if leaspy is None:
        return settings
    known = settings.leaspy or LeaspyConfig(python=leaspy)
    return settings.model_copy(update={"leaspy": known.model_copy(update={"python": leaspy})})


def only_patient(records: Records, patient: str, where: str) -> Records:
    """The records of one patient.

    Raises:
        DataError: If there is none of that name.
    """
    import numpy as np

    from medimind.errors import DataError

    found = np.flatnonzero(records.patients == patient)
    if len(found) == 0:
        raise DataError(f"there is no patient '{patient}'", where=where)
    return records.take(found)


def code_title(code: str) -> str:
    """The name that a code is known by, or the code."""
    from medimind.forecasting.records.codes import find_code

    known = find_code(code)
    return known.short if known else code

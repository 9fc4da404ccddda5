"""Arguments and readings that the forecast commands share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from medimind.config.forecast_models import ForecastConfig
    from medimind.forecasting.records.table import Records


def records_argument(function: Callable[..., Any]) -> Callable[..., Any]:
    """``RECORDS``."""
    return click.argument("records", type=click.Path(path_type=Path))(function)


def read(path: Path) -> Records:
    """The records of a file."""
    from medimind.forecasting.long_table import read_long_table

    return read_long_table(path)


def read_settings(path: Path | None) -> ForecastConfig:
    """The settings of a YAML file, or the defaults."""
    from medimind.config.forecast_models import ForecastConfig, load_forecast_config

    return ForecastConfig() if path is None else load_forecast_config(path)


def only_patient(records: Records, patient: str, *, where: str) -> Records:
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

"""``medimind forecast fit``: models from records of many patients."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from medimind.cli.display import TerminalDisplay
from medimind.cli.forecast.source import (
    code_title,
    read,
    read_settings,
    records_options,
    settings_options,
)
from medimind.cli.terminal import console, progress_console


@click.command("fit")
@records_options
@click.option(
    "--out", required=True, type=click.Path(path_type=Path), help="Folder of the forecaster."
)
@settings_options
def command(
    records: Path,
    mapping: Path | None,
    strict: bool,
    out: Path,
    config: Path | None,
    leaspy: Path | None,
) -> None:
    """Learn from RECORDS of many patients how values move.

    \b
    medimind forecast fit cohort.parquet --out models/cohort
    """
    from medimind.forecasting.document import METHOD_TITLES
    from medimind.forecasting.fit import fit_forecaster
    from medimind.forecasting.records.unit_names import written_unit
    from medimind.forecasting.store import save_forecaster

    settings = read_settings(config, leaspy)
    display = TerminalDisplay(progress_console)
    forecaster = fit_forecaster(
        read(records, mapping, strict=strict), settings, on_progress=display.progress
    )
    save_forecaster(forecaster, out)
    table = Table(box=None, pad_edge=False)
    for title in ("code", "unit", "patients", "model", "error", "last\nvalue's", "skill"):
        table.add_column(title, justify="left" if title in ("code", "unit", "model") else "right")
    for code, model in forecaster.codes.items():
        table.add_row(
            code_title(code),
            written_unit(model.unit),
            f"{model.num_patients:,}",
            METHOD_TITLES.get(model.method, model.method),
            f"{model.errors['chosen']:.4g}",
            f"{model.errors['last_value']:.4g}",
            f"{100 * model.skill:.1f} %",
        )
    console.print(table)
    for name, reason in forecaster.left_out.items():
        console.print(f"left out: {name}: {reason}", markup=False)
    console.print(f"the forecaster is in {out}", markup=False)

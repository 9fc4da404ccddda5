"""``medimind forecast backtest``: how good forecasts are on patients that no model has seen."""

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


@click.command("backtest")
@records_options
@settings_options
@click.option(
    "--folds",
    default=3,
    show_default=True,
    type=click.IntRange(2, 20),
    help="Parts, each left out once.",
)
@click.option("--out", type=click.Path(path_type=Path), help="Write the figures to this JSON file.")
def command(
    records: Path,
    mapping: Path | None,
    strict: bool,
    config: Path | None,
    leaspy: Path | None,
    folds: int,
    out: Path | None,
) -> None:
    """Measure forecasts of RECORDS against what came, on patients left out of the fit.

    \b
    medimind forecast backtest cohort.parquet
    """
    import json

    from medimind.forecasting.backtest import backtest

    display = TerminalDisplay(progress_console)
    results = backtest(
        read(records, mapping, strict=strict),
        read_settings(config, leaspy),
        num_folds=folds,
        on_progress=display.progress,
    )
    rows = [row for result in results for row in result.rows()]
    table = Table(box=None, pad_edge=False)
    table.add_column("code")
    for title in ("visits\nahead", "days", "fore-\ncasts", "error", "last\nvalue's", "skill",
                  "inside\n50 %", "inside\n80 %", "inside\n90 %"):  # fmt: skip
        table.add_column(title, justify="right", no_wrap=True)
    for row in rows:
        table.add_row(
            code_title(row["code"]),
            str(row["steps"]),
            f"{row['median_days']:.0f}",
            f"{row['num_forecasts']:,}",
            f"{row['error']:.4g}",
            f"{row['error_last_value']:.4g}",
            f"{row['skill_percent']:.1f}%",
            *(f"{100 * row[f'coverage_{level}']:.1f}" for level in (50, 80, 90)),
        )
    console.print(table)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")

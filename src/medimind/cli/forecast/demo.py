"""``medimind forecast demo``: the whole way on a cohort of our own making."""

from __future__ import annotations

from pathlib import Path

import click

from medimind.cli.arguments import show_path, type_path
from medimind.cli.display import TerminalDisplay
from medimind.cli.terminal import console, progress_console


@click.command("demo")
@click.option(
    "--out",
    default="forecast-demo",
    show_default=True,
    type=click.Path(path_type=Path),
    help="Folder.",
)
@click.option(
    "--patients",
    default=400,
    show_default=True,
    type=click.IntRange(60, 100_000),
    help="Patients to learn from.",
)
def command(out: Path, patients: int) -> None:
    """Simulate patients, fit, forecast them, write pages: nothing is downloaded.

    The cohort is made by medimind.forecasting.simulate and stands for no real patient.

    \b
    medimind forecast demo
    """  # fmt: skip
    from medimind.config.forecast import InputConfig
    from medimind.config.forecast_models import ForecastConfig
    from medimind.forecasting.cohort import predict_cohort
    from medimind.forecasting.fit import fit_forecaster
    from medimind.forecasting.report.write import REPORT, write_report
    from medimind.forecasting.simulate import simulate_cohort, write_long_table
    from medimind.forecasting.store import save_forecaster

    display = TerminalDisplay(progress_console)
    known = simulate_cohort(patients, seed=1)
    new = simulate_cohort(30, seed=2, first_number=900_001)
    write_long_table(known.records, out / "known.parquet")
    write_long_table(new.records, out / "new.csv")
    forecaster = fit_forecaster(known.records, ForecastConfig(), on_progress=display.progress)
    save_forecaster(forecaster, out / "model")
    predict_cohort(forecaster, out / "new.csv", out / "forecasts", config=InputConfig(),
                   on_progress=display.progress)  # fmt: skip
    write_report(out / "forecasts", on_progress=display.progress)
    console.print(f"open {show_path(out / 'forecasts' / REPORT)}", markup=False)
    model, records = type_path(out / "model"), type_path(out / "new.csv")
    line = f"medimind forecast predict {model} {records} --patient S0900001"
    console.print(f"go on with: {line}", markup=False)

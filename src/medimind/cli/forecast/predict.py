"""``medimind forecast predict``: trajectories, intervals and risks of patients."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from medimind.cli.display import TerminalDisplay
from medimind.cli.forecast.source import (
    only_patient,
    print_left_out,
    read,
    read_mapping,
    records_options,
)
from medimind.cli.terminal import console, progress_console

if TYPE_CHECKING:
    from medimind.forecasting.forecaster import Forecaster
    from medimind.forecasting.records.table import Records


@click.command("predict")
@click.argument("forecaster", type=click.Path(path_type=Path))
@records_options
@click.option(
    "--out", type=click.Path(path_type=Path), help="Folder for Parquet and a JSON per patient."
)
@click.option("--patient", help="Only this patient; without --out the JSON is printed.")
@click.option(
    "--horizon",
    "horizons",
    multiple=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Days ahead; may be given several times.",
)
@click.option(
    "--max-documents",
    default=2000,
    show_default=True,
    type=click.IntRange(min=0),
    help="Write a JSON document for so many patients; all are in the Parquet files.",
)
@click.option(
    "--workers",
    default=2,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Processes, with --out.",
)
def command(
    forecaster: Path,
    records: Path,
    mapping: Path | None,
    strict: bool,
    out: Path | None,
    patient: str | None,
    horizons: tuple[float, ...],
    max_documents: int,
    workers: int,
) -> None:
    """Forecast the patients in RECORDS with a fitted FORECASTER.

    \b
    medimind forecast predict models/cohort new.csv --out forecasts
    medimind forecast predict models/cohort new.csv --patient A17
    """
    from medimind.forecasting.store import load_forecaster

    if (out is None) == (patient is None):
        raise click.UsageError("give --out FOLDER, or --patient NAME to print one forecast")
    model = load_forecaster(forecaster)
    if out is None:
        wanted = only_patient(read(records, mapping, strict=strict), str(patient), str(records))
        click.echo(_document(model, wanted, horizons), nl=False)
        return
    from medimind.forecasting.cohort import predict_cohort

    display = TerminalDisplay(progress_console)
    result = predict_cohort(
        model,
        records,
        out,
        config=read_mapping(mapping),
        horizons_days=horizons,
        strict=strict,
        max_documents=max_documents,
        workers=workers,
        on_progress=display.progress,
    )
    print_left_out(result.validation)
    console.print(f"{result.num_patients:,} patients: {out}", markup=False)
    if result.num_documents < result.num_patients:
        console.print(
            f"documents of the first {result.num_documents:,}; more with --max-documents",
            markup=False,
        )


def _document(model: Forecaster, records: Records, horizons: tuple[float, ...]) -> str:
    from medimind.forecasting.document import patient_documents
    from medimind.forecasting.outputs import document_text
    from medimind.forecasting.predict import predict

    forecasts, risks = predict(model, records, horizons_days=horizons)
    return document_text(next(patient_documents(model, records, forecasts, risks)))

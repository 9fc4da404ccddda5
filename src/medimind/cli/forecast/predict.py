"""``medimind forecast predict``: trajectories, intervals and risks of patients."""

from __future__ import annotations

from pathlib import Path

import click

from medimind.cli.forecast.source import read, records_argument
from medimind.cli.terminal import console


@click.command("predict")
@click.argument("forecaster", type=click.Path(path_type=Path))
@records_argument
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
    "--documents/--no-documents", default=True, help="Write a JSON per patient beside the Parquet."
)
def command(
    forecaster: Path,
    records: Path,
    out: Path | None,
    patient: str | None,
    horizons: tuple[float, ...],
    documents: bool,
) -> None:
    """Forecast the patients in RECORDS with a fitted FORECASTER.

    \b
    medimind forecast predict models/cohort new.csv --out forecasts
    medimind forecast predict models/cohort new.csv --patient A17
    """
    from medimind.cli.forecast.source import only_patient
    from medimind.forecasting.document import patient_documents
    from medimind.forecasting.outputs import document_text, write_documents, write_tables
    from medimind.forecasting.predict import predict
    from medimind.forecasting.store import load_forecaster

    if out is None and patient is None:
        raise click.UsageError("give --out FOLDER, or --patient NAME to print one forecast")
    model = load_forecaster(forecaster)
    wanted = read(records)
    if patient is not None:
        wanted = only_patient(wanted, patient, where=str(records))
    forecasts, risks = predict(model, wanted, horizons_days=horizons)
    told = patient_documents(model, wanted, forecasts, risks)
    if out is None:
        click.echo(document_text(next(told)), nl=False)
        return
    write_tables(out, forecasts, risks)
    if documents:
        write_documents(out, told)
    console.print(f"{wanted.num_patients:,} patients: {out}", markup=False)

"""``medimind forecast report``: pages for people from a folder of forecasts."""

from __future__ import annotations

from pathlib import Path

import click

from medimind.cli.display import TerminalDisplay
from medimind.cli.terminal import console, progress_console


@click.command("report")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option(
    "--patients",
    default=50,
    show_default=True,
    type=click.IntRange(min=0),
    help="Pages for so many patients.",
)
@click.option(
    "--model",
    type=click.Path(path_type=Path),
    help="GGUF file of a tuned model that writes the account; every claim is traced.",
)
def command(folder: Path, patients: int, model: Path | None) -> None:
    """Write report.html of the cohort and a page per patient into FOLDER.

    \b
    medimind forecast report forecasts
    medimind forecast report forecasts --model runs/mine/model-q4_k_m.gguf
    """  # fmt: skip
    from medimind.forecasting.report.write import REPORT, write_report

    engine = None
    if model is not None:
        from medimind.engines.gguf_engine import open_gguf_engine

        engine = open_gguf_engine(model)
    display = TerminalDisplay(progress_console)
    try:
        count, by_model = write_report(
            folder, max_patients=patients, engine=engine, on_progress=display.progress
        )
    finally:
        if engine is not None:
            engine.close()
    console.print(f"{count} patients' pages and the cohort's: {folder / REPORT}", markup=False)
    if engine is not None:
        console.print(
            f"{by_model} accounts are the model's; of {count - by_model} no text of it could be "
            "traced, the template's stand there",
            markup=False,
        )

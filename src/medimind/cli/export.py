"""``medimind export``: the result in the formats that other tools load."""

from __future__ import annotations

from pathlib import Path

import click

from medimind.cli.arguments import show_path
from medimind.cli.terminal import console
from medimind.errors import ExportError

MIB = 1 << 20


@click.command("export")
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.option(
    "--to",
    "target",
    type=click.Choice(["adapter", "merged"]),
    default="adapter",
    show_default=True,
    help="adapter: PEFT files. merged: safetensors that transformers and vLLM load.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    help="Folder to write; by default RUN/export-adapter or RUN/export-merged.",
)
@click.option(
    "--base",
    type=click.Choice(["trained", "original"]),
    default="trained",
    show_default=True,
    help="Merge into the dequantised weights that were trained against, or the checkpoint's own.",
)
@click.option("--force", is_flag=True, help="Replace the output folder if it is there.")
def command(run_folder: Path, target: str, output: Path | None, base: str, force: bool) -> None:
    """Write the adapter or the merged model of RUN for other tools.

    \b
    medimind export runs/starter --to merged -o smollm2-medical
    """
    from medimind.tracking.run_folder import open_run_folder

    folder, recipe = open_run_folder(run_folder)
    if not folder.adapter.is_dir():
        raise ExportError(
            "the run has no adapter yet",
            where=str(run_folder),
            fix=f"Go on with it: medimind run {folder.recipe} --resume",
        )
    output = output or run_folder / f"export-{target}"
    if output.exists() and not force:
        raise ExportError(
            "the output folder is there already",
            where=str(output),
            fix="Choose another with -o, or replace it with --force",
        )
    if target == "adapter":
        from medimind.export.adapter_copy import export_adapter

        files = export_adapter(folder.adapter, output)
    else:
        from medimind.export.merge import export_merged
        from medimind.models.adapter import load_adapter
        from medimind.models.load import load_model

        model = load_model(recipe.model)
        load_adapter(folder.adapter, model.decoder, base_sha256=model.sha256)
        files = export_merged(model, output, base="original" if base == "original" else "trained")
    for file in files:
        console.print(f"{show_path(file)}  {file.stat().st_size / MIB:,.1f} MiB", markup=False)

"""``medimind forecast validate``: what is wrong with records, row by row."""

from __future__ import annotations

from pathlib import Path

import click
from rich.table import Table

from medimind.cli.forecast.source import read_mapping, records_options
from medimind.cli.terminal import console


@click.command("validate")
@records_options
@click.option("--out", type=click.Path(path_type=Path), help="Write every finding to this CSV.")
@click.option("--show", default=5, show_default=True, help="Findings to print of each kind.")
def command(records: Path, mapping: Path | None, strict: bool, out: Path | None, show: int) -> None:
    """Say what is wrong with RECORDS: row, patient, code and what to do.

    With --strict anything found is an error (exit code 1), for use in pipelines.

    \b
    medimind forecast validate cohort.parquet --out findings.csv
    """
    import csv

    from medimind.forecasting.records.findings import COLUMNS, KINDS, Finding
    from medimind.forecasting.records.read import stream_records, total
    from medimind.forecasting.records.validate import refuse

    validation = total(stream_records(records, read_mapping(mapping)))
    console.print(
        f"{validation.rows_in:,} rows of {validation.patients_in:,} patients: "
        f"{validation.rows_kept:,} kept, {validation.left_out.total():,} left out"
    )
    by_kind: dict[str, list[Finding]] = {}
    for finding in validation.findings():
        listed = by_kind.setdefault(finding.kind, [])
        if len(listed) < show:
            listed.append(finding)
    for kind, listed in by_kind.items():
        known = KINDS[kind]
        what = "left out" if known.leaves_out else "kept"
        table = Table(
            title=f"{kind}: {validation.found[kind]:,} ({what}). {known.title}. {known.fix}.",
            title_justify="left", title_style="bold", box=None, pad_edge=False,
        )  # fmt: skip
        for title in ("row", "patient", "code", "found"):
            table.add_column(title)
        for finding in listed:
            table.add_row(str(finding.row or ""), finding.patient, finding.code, finding.detail)
        console.print(table)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        with out.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(COLUMNS)
            for finding in validation.findings():
                writer.writerow(finding.as_row().values())
    if strict:
        refuse(validation)

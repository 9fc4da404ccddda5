"""Metrics as one JSON object a line, next to the run they belong to."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from medimind.tracking.tracker import Scalar


class JsonlTracker:
    """Appends each row to a file that is closed in between.

    A step's row is ``{"step": 12, "train/loss": 1.5, ...}``; a table's is ``{"table": name,
    "columns": [...], "rows": [...]}``; the last one is ``{"summary": {...}}``.

    Args:
        path: The file; made where it is missing.
        resume_step: The step the run goes on from. Rows of later steps, tables and summaries are
            dropped, so that the file reads as if the run had never been interrupted.
    """

    def __init__(self, path: Path, *, resume_step: int = 0) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            truncate_metrics(path, last_step=resume_step)
        self._path = path

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Append the metrics of one step."""
        self._append({"step": step, **metrics})

    def log_table(
        self, name: str, *, columns: Sequence[str], rows: Sequence[Sequence[Scalar]]
    ) -> None:
        """Append a table."""
        self._append({"table": name, "columns": list(columns), "rows": [list(r) for r in rows]})

    def finish(self, summary: Mapping[str, Scalar]) -> None:
        """Append the final figures."""
        self._append({"summary": dict(summary)})

    def _append(self, row: Mapping[str, Any]) -> None:
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics file in their order; a line torn by a crash is left out."""
    rows: list[dict[str, Any]] = []
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append(row)
    return rows


def truncate_metrics(path: Path, *, last_step: int) -> None:
    """Drop what was written after ``last_step``; the file is replaced in one move."""
    kept = [
        row
        for row in read_metrics(path)
        if isinstance(row.get("step"), int) and row["step"] <= last_step
    ]
    aside = path.with_name(f".{path.name}.writing")
    with aside.open("w", encoding="utf-8") as file:
        file.writelines(json.dumps(row, ensure_ascii=False) + "\n" for row in kept)
        file.flush()
        os.fsync(file.fileno())
    aside.replace(path)

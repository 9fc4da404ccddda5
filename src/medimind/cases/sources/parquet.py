"""Parquet files, a few rows at a time."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from medimind.cases.sources.row import MAX_ROW_CHARACTERS, TOO_LONG, TOO_LONG_FIX, BadRow, Row, Rows
from medimind.errors import DataError, MissingExtraError

_BATCH_ROWS = 128


def read_parquet(path: Path) -> Rows:
    """Each record as a row; ``line`` is its number, for the format has no lines.

    Raises:
        DataError: The file is damaged or no Parquet file.
        MissingExtraError: ``pyarrow`` is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError as error:
        raise MissingExtraError("pyarrow", extra="data") from error

    number = 0
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=_BATCH_ROWS, use_threads=False):
                for fields in batch.to_pylist():
                    number += 1
                    yield _row(number, fields)
    except (pa.ArrowException, OSError, ValueError, OverflowError, TypeError) as error:
        after = f" after row {number}" if number else ""
        raise DataError(
            f"the Parquet file cannot be read{after} ({type(error).__name__})",
            where=str(path),
            fix="Fetch or write the file again; it may be cut off or damaged",
        ) from error


def _row(number: int, fields: dict[str, Any]) -> Row | BadRow:
    size = sum(len(value) for value in fields.values() if isinstance(value, str | bytes))
    if size > MAX_ROW_CHARACTERS:
        return BadRow(number, TOO_LONG, TOO_LONG_FIX)
    return Row(number, fields)

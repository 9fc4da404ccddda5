"""Records of a file or folder, whole or streamed in parts of whole patients.

Parquet is streamed: row groups are read one after the other. Where a patient's rows do not lie
together, they are first spread over files by patient, in a folder beside nobody else's.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medimind.config.forecast import InputConfig
from medimind.errors import DataError, MissingExtraError
from medimind.forecasting.records.fhir import fhir_rows, is_fhir, read_fhir
from medimind.forecasting.records.findings import NOTHING, Validation
from medimind.forecasting.records.raw import RawRows
from medimind.forecasting.records.table import Records
from medimind.forecasting.records.tables import Source, csv_source, read_csv, read_rows
from medimind.forecasting.records.validate import refuse, validate

Part = tuple[Records, Validation]

_ROWS_A_PIECE = 1_000_000


@dataclass(frozen=True, slots=True, eq=False)
class Work:
    """A part that was read but not looked at: a table, or rows."""

    kind: str
    source: Source | None = None
    raw: RawRows | None = None


def read_records(path: Path, config: InputConfig, *, strict: bool = False) -> Part:
    """All records of a source, checked.

    Raises:
        DataError: If it cannot be read, or with ``strict`` if anything was found.
    """
    raw = _read_whole(path, config)
    records, validation = validate(raw, config)
    if strict:
        refuse(validation)
    return records, validation


def records_of(content: bytes, config: InputConfig, *, kind: str, where: str = "records") -> Part:
    """Records that are in memory already; nothing is written to a disk.

    Args:
        content: The file's bytes.
        config: What its columns are.
        kind: ``csv`` (long, or wide as the mapping says), ``fhir`` (a Bundle or a resource) or
            ``ndjson`` (FHIR, a resource a line).
        where: What messages call it.

    Raises:
        DataError: If it cannot be read.
    """
    if kind == "csv":
        source = csv_source(content, where=where)
        return validate(read_rows(source, config, "wide" if config.values else "long"), config)
    if kind not in ("fhir", "ndjson"):
        raise DataError(f"'{kind}' is no kind of records", fix="Give csv, fhir or ndjson")
    return validate(fhir_rows(content, is_ndjson=kind == "ndjson", where=where), config)


def stream_records(
    path: Path, config: InputConfig, *, rows_a_part: int = _ROWS_A_PIECE, strict: bool = False
) -> Iterator[Part]:
    """The same in parts of whole patients; Parquet is never in memory as a whole.

    What is found between patients (copies, spellings) and between codes is found within a part.
    """
    for work in work_parts(path, config, rows_a_part=rows_a_part)[0]:
        yield checked(work, config, strict=strict)


def work_parts(path: Path, config: InputConfig, *, rows_a_part: int) -> tuple[Iterator[Work], int]:
    """Parts that `checked` makes records of, and about how many rows they have in all."""
    kind = source_kind(path, config)
    if path.suffix.lower() == ".parquet" and kind != "fhir":
        num_rows = _parquet(path).metadata.num_rows
        return (Work(kind, source=one) for one in _pieces(path, config, rows_a_part)), num_rows
    raw = _read_whole(path, config)
    return iter([Work(kind, raw=raw)]), raw.rows_in


def checked(work: Work, config: InputConfig, *, strict: bool) -> Part:
    """The records of a part, and what was found in it."""
    raw = work.raw
    if raw is None:
        assert work.source is not None
        raw = read_rows(work.source, config, work.kind)
    records, validation = validate(raw, config)
    if strict:
        refuse(validation)
    return records, validation


def total(parts: Iterator[Part]) -> Validation:
    """What was found in all parts."""
    result = NOTHING
    for _, validation in parts:
        result = result + validation
    return result


def source_kind(path: Path, config: InputConfig) -> str:
    """``long``, ``wide``, ``fhir`` or ``meds``.

    Raises:
        DataError: If there is no such file.
    """
    if not path.exists():
        raise DataError("there is no such file", where=str(path))
    if config.kind != "auto":
        return config.kind
    if is_fhir(path):
        return "fhir"
    if config.values:
        return "wide"
    if path.suffix.lower() == ".parquet":
        columns = set(_schema(path).names)
        if {"subject_id", "numeric_value"} <= columns:
            return "meds"
    return "long"


def _read_whole(path: Path, config: InputConfig) -> RawRows:
    kind = source_kind(path, config)
    if kind == "fhir":
        return read_fhir(path)
    if path.suffix.lower() == ".parquet":
        table = _arrow(path)
        source = Source(str(path), table, np.arange(1, table.num_rows + 1))
    else:
        source = read_csv(path)
    return read_rows(source, config, kind)


def _pieces(path: Path, config: InputConfig, rows_a_part: int) -> Iterator[Source]:
    """Tables of whole patients."""
    import pyarrow as pa

    file = _parquet(path)
    column = "subject_id" if source_kind(path, config) == "meds" else config.patient
    if column not in file.schema_arrow.names:
        raise DataError(f"no column {column}", where=str(path), fix="Map columns with --input YAML")
    if not _patients_lie_together(file, column):
        yield from _spread(path, file, column, rows_a_part)
        return
    waiting: list[Any] = []
    first, count = 1, 0
    for batch in file.iter_batches(batch_size=min(rows_a_part, 1 << 18)):
        waiting.append(batch)
        count += batch.num_rows
        if count < rows_a_part:
            continue
        table = pa.Table.from_batches(waiting)
        cut = _last_change(table.column(column))
        if cut == 0:
            continue  # one patient so far
        yield Source(str(path), table.slice(0, cut), np.arange(first, first + cut))
        first += cut
        waiting = table.slice(cut).to_batches()
        count = table.num_rows - cut
    if count or first == 1:
        table = pa.Table.from_batches(waiting, file.schema_arrow)
        yield Source(str(path), table, np.arange(first, first + table.num_rows))


def _patients_lie_together(file: Any, column: str) -> bool:
    """Whether each patient's rows follow one another; reads that column only."""
    seen: set[Any] = set()
    last: Any = None
    for batch in file.iter_batches(batch_size=1 << 18, columns=[column]):
        for name in _runs(batch.column(0)):
            if name == last:
                continue
            if name in seen:
                return False
            seen.add(name)
            last = name
    return True


def _runs(column: Any) -> list[Any]:
    """The names in their order, each once for all rows in a row."""
    coded = column.dictionary_encode()
    index = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    texts = [*coded.dictionary.to_pylist(), None]
    return [texts[place] for place in index[np.diff(index, prepend=-2) != 0]]


def _last_change(column: Any) -> int:
    """The row at which the last patient begins."""
    coded = column.unify_dictionaries() if hasattr(column, "unify_dictionaries") else column
    coded = coded.combine_chunks().dictionary_encode()
    index = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    changes = np.flatnonzero(np.diff(index))
    return int(changes[-1]) + 1 if len(changes) else 0


def _spread(path: Path, file: Any, column: str, rows_a_part: int) -> Iterator[Source]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    num_files = max(1, -(-file.metadata.num_rows // rows_a_part))
    with tempfile.TemporaryDirectory(prefix="medimind-") as folder:
        paths = [Path(folder) / f"{index}.parquet" for index in range(num_files)]
        schema = file.schema_arrow.append(pa.field("__row", pa.int64()))
        writers = [pq.ParquetWriter(one, schema) for one in paths]
        start = 1
        place: dict[Any, int] = {}
        for batch in file.iter_batches(batch_size=1 << 18):
            coded = batch.column(column).dictionary_encode()
            into = np.array(
                [place.setdefault(name, len(place) % num_files) for name in
                 coded.dictionary.to_pylist()] + [0]
            )  # fmt: skip
            index = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
            numbered = batch.append_column("__row", pa.array(np.arange(start, start + len(batch))))
            start += len(batch)
            for number, writer in enumerate(writers):
                rows = np.flatnonzero(into[index] == number)
                if len(rows):
                    writer.write_batch(numbered.take(pa.array(rows)))
        for writer in writers:
            writer.close()
        for one in paths:
            table = pq.read_table(one)
            row = table.column("__row").to_numpy()
            yield Source(str(path), table.drop_columns(["__row"]), row)


def _parquet(path: Path) -> Any:
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError("pyarrow", extra="forecast") from None
    try:
        return pq.ParquetFile(path)
    except (OSError, pa.ArrowInvalid) as problem:
        reason = str(problem).partition("\n")[0]
        raise DataError(f"the table cannot be read ({reason})", where=str(path)) from None


def _schema(path: Path) -> Any:
    return _parquet(path).schema_arrow


def _arrow(path: Path) -> Any:
    import pyarrow as pa

    try:
        return _parquet(path).read()
    except (OSError, pa.ArrowInvalid) as problem:
        reason = str(problem).partition("\n")[0]
        raise DataError(f"the table cannot be read ({reason})", where=str(path)) from None

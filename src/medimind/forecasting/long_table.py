"""Records from a long table that is in order: CSV or Parquet, a row per measurement.

Columns ``patient, time, code, value, unit``; time in days on the patient's own clock. Anything that
is not as it should be is refused with its row: what to do about bad rows is validation's to say.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from medimind.errors import DataError, MissingExtraError
from medimind.forecasting.records.table import Records, make_records

COLUMNS = ("patient", "time", "code", "value", "unit")


def read_long_table(path: Path) -> Records:
    """The measurements of a ``.csv`` or ``.parquet`` file.

    Raises:
        DataError: Naming the first row that is wrong.
    """
    return records_of(read_arrow(path), where=str(path))


def read_arrow(path: Path) -> Any:
    """The file as an Arrow table with the columns of a long table.

    Raises:
        DataError: If it cannot be read or lacks a column.
    """
    try:
        import pyarrow as pa
        import pyarrow.csv as pa_csv
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingExtraError("pyarrow", extra="forecast") from None
    try:
        if path.suffix.lower() == ".parquet":
            table = pq.read_table(path)
        else:
            options = pa_csv.ConvertOptions(
                column_types={"patient": pa.string(), "code": pa.string(), "unit": pa.string()}
            )
            table = pa_csv.read_csv(path, convert_options=options)
    except (OSError, pa.ArrowInvalid) as problem:
        reason = str(problem).partition("\n")[0]
        raise DataError(f"the table cannot be read ({reason})", where=str(path)) from problem
    missing = [name for name in COLUMNS if name not in table.column_names]
    if missing:
        raise DataError(
            f"no column {', '.join(missing)}",
            where=str(path),
            fix=f"A long table has the columns {', '.join(COLUMNS)}",
        )
    return table


def records_of(table: Any, *, where: str) -> Records:
    """Records of an Arrow table.

    Raises:
        DataError: Naming the first row that is wrong.
    """
    patient, patients = _encoded(table, "patient", where)
    code, codes = _encoded(table, "code", where)
    unit, units = _encoded(table, "unit", where)
    time, value = _numbers(table, "time", where), _numbers(table, "value", where)
    unit_of_code = np.full(len(codes), -1)
    unit_of_code[code[::-1]] = unit[::-1]
    _refuse(unit_of_code[code] != unit, "a code with two units", where)
    records = make_records(
        patients=np.asarray(patients, dtype=object),
        codes=tuple(codes),
        units=tuple(units[index] for index in unit_of_code),
        patient_index=patient,
        time_days=time,
        code_index=code,
        value=value,
    )
    same = (
        (np.diff(records.patient_index) == 0)
        & (np.diff(records.time_days) == 0)
        & (np.diff(records.code_index) == 0)
    )
    if same.any():
        row = int(np.flatnonzero(same)[0])
        raise DataError(
            f"patient {records.patient[row]} has two values of {records.code[row]} at the same "
            f"time, {records.time_days[row]:g} days",
            where=where,
        )
    return records


def _encoded(table: Any, name: str, where: str) -> tuple[np.ndarray, list[str]]:
    import pyarrow as pa

    column = table.column(name)
    if not pa.types.is_dictionary(column.type):
        column = column.cast(pa.string()).dictionary_encode()
    column = column.unify_dictionaries().combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], pa.string())
    if column.null_count:
        _refuse(np.asarray(column.is_null()), f"no {name}", where)
    index = np.asarray(column.indices).astype(np.int32, copy=False)
    return index, [str(text) for text in column.dictionary.to_pylist()]


def _numbers(table: Any, name: str, where: str) -> np.ndarray:
    import pyarrow as pa

    try:
        column = table.column(name).cast(pa.float64())
    except pa.ArrowInvalid as problem:
        raise DataError(f"column {name} is not numbers ({problem})", where=where) from problem
    numbers = column.to_numpy()
    _refuse(~np.isfinite(numbers), f"{name} is missing or not finite", where)
    return numbers


def _refuse(wrong: np.ndarray, what: str, where: str) -> None:
    if wrong.any():
        row = int(np.flatnonzero(wrong)[0]) + 1
        raise DataError(
            f"{what} ({int(wrong.sum())} rows, the first is row {row})",
            where=where,
            fix="Mend or leave out these rows; medimind forecast validate lists them",
        )

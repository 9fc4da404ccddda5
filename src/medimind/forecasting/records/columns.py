"""Columns of a table as numbers, times and names, with marks where a cell cannot be read."""

from __future__ import annotations

import re
from datetime import UTC, date, datetime
from typing import Any

import numpy as np

from medimind.forecasting.records.raw import MISSING, Unread
from medimind.forecasting.records.table import Floats, Integers

BLANK = frozenset({"", "na", "n/a", "null", "none", ".", "-", "missing", "unknown", "#n/a"})
_NOT_FINITE = {"nan": np.nan, "inf": np.inf, "+inf": np.inf, "-inf": -np.inf}
_NOT_FINITE |= {"infinity": np.inf, "-infinity": -np.inf}
_CENSORED = re.compile(r"[<>≤≥]=?\s*\d+([.,]\d+)?")
_COMMA = re.compile(r"[+-]?\d+,\d+")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def names(column: Any) -> tuple[Integers, tuple[str, ...]]:
    """Each cell's place among the distinct texts of an Arrow column; blank ones are `MISSING`."""
    import pyarrow as pa

    if not pa.types.is_dictionary(column.type):
        column = _as_text(column).dictionary_encode()
    column = column.unify_dictionaries() if isinstance(column, pa.ChunkedArray) else column
    column = column.combine_chunks() if isinstance(column, pa.ChunkedArray) else column
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], pa.string())
        if not pa.types.is_dictionary(column.type):
            column = column.dictionary_encode()
    index = column.indices.fill_null(MISSING).to_numpy(zero_copy_only=False)
    index = index.astype(np.int32, copy=False)
    texts = ["" if text is None else str(text) for text in column.dictionary.to_pylist()]
    stripped = [text.strip() for text in texts]
    if stripped != texts or len(set(texts)) != len(texts) or any(t.lower() in BLANK for t in texts):
        found: dict[str, int] = {}
        into = np.full(len(texts) + 1, MISSING, dtype=np.int32)
        for place, text in enumerate(stripped):
            if text.lower() not in BLANK:
                into[place] = found.setdefault(text, len(found))
        return into[index], tuple(found)
    return index, tuple(texts)


def numbers(column: Any) -> tuple[Floats, Integers]:
    """Values of an Arrow column and `Unread` flags; NaN where there is no number."""
    import pyarrow as pa

    if pa.types.is_floating(column.type) or pa.types.is_integer(column.type):
        value = column.cast(pa.float64(), safe=False).to_numpy()
        missing = np.zeros(len(value), dtype=bool)
        if column.null_count:
            missing = np.asarray(column.is_null())
        return value, np.where(missing, Unread.VALUE_MISSING, 0).astype(np.int32)
    index, texts = _distinct(column)
    parsed = [_number(text) for text in texts]
    value = np.array([one[0] for one in parsed] + [np.nan])
    flags = np.array([one[1] for one in parsed] + [Unread.VALUE_MISSING], dtype=np.int32)
    return value[index], flags[index]


def times(column: Any, *, days_in_unit: float) -> tuple[Floats, Integers, bool]:
    """Days, flags, and whether they are dates (days since 1970) rather than numbers.

    In a column with both, what most cells are decides; the others are unreadable.
    """
    import pyarrow as pa

    kind = column.type
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        stamp = column.cast(pa.timestamp("us"), safe=False)
        missing = np.asarray(stamp.is_null())
        micros = stamp.cast(pa.int64()).fill_null(0).to_numpy()
        days = np.where(missing, np.nan, micros / 86_400e6)
        return days, np.where(missing, Unread.TIME_MISSING, 0).astype(np.int32), True
    if pa.types.is_floating(kind) or pa.types.is_integer(kind):
        value, flags = numbers(column)
        marks = np.where(flags != 0, Unread.TIME_MISSING, 0).astype(np.int32)
        return value * days_in_unit, marks, False
    index, texts = _distinct(column)
    as_number = np.array([_plain_number(text) for text in texts] + [np.nan])
    as_date = np.array([day_of(text) for text in texts] + [np.nan])
    blank = np.array([text.strip().lower() in BLANK for text in texts] + [True])
    is_number = np.isfinite(as_number) | np.isin(
        np.array([*texts, ""], dtype=object), list(_NOT_FINITE)
    )
    counts = np.bincount(np.where(index < 0, len(texts), index), minlength=len(texts) + 1)
    is_dated = bool(counts[np.isfinite(as_date)].sum() > counts[is_number].sum())
    days = as_date if is_dated else as_number * days_in_unit
    flags = np.where(blank, int(Unread.TIME_MISSING), 0)
    readable = np.isfinite(as_date) if is_dated else is_number
    flags = np.where(~blank & ~readable, int(Unread.TIME_TEXT), flags).astype(np.int32)
    return days[index], flags[index], is_dated


def day_of(text: str) -> float:
    """Days since 1970-01-01 of an ISO 8601 date or date and time; NaN if it is none."""
    text = text.strip()
    if not re.match(r"\d{4}(-|$)", text):
        return np.nan
    try:
        if re.fullmatch(r"\d{4}(-\d{2})?", text):
            text = text + "-01-01"[: 10 - len(text)] if len(text) == 7 else text + "-01-01"
        if len(text) == 10:
            return float((date.fromisoformat(text) - _EPOCH.date()).days)
        moment = datetime.fromisoformat(text)
    except ValueError:
        return np.nan
    moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return (moment - _EPOCH).total_seconds() / 86400


def _as_text(column: Any) -> Any:
    import pyarrow as pa

    return column if pa.types.is_string(column.type) else column.cast(pa.string())


def _distinct(column: Any) -> tuple[Integers, list[str]]:
    """Each cell's place among distinct texts; -1 where the cell is null."""
    import pyarrow as pa

    column = _as_text(column).combine_chunks()
    if isinstance(column, pa.ChunkedArray):
        column = column.chunk(0) if column.num_chunks else pa.array([], pa.string())
    coded = column.dictionary_encode()
    index = coded.indices.fill_null(-1).to_numpy(zero_copy_only=False)
    return index, [str(text) for text in coded.dictionary.to_pylist()]


def _plain_number(text: str) -> float:
    try:
        return float(text) if "_" not in text else np.nan
    except ValueError:
        return np.nan


def _number(text: str) -> tuple[float, int]:
    text = text.strip()
    lower = text.lower()
    if lower in _NOT_FINITE:
        return _NOT_FINITE[lower], 0
    if lower in BLANK:
        return np.nan, Unread.VALUE_MISSING
    number = _plain_number(text)
    if not np.isnan(number):
        return number, 0
    if _CENSORED.fullmatch(text):
        return np.nan, Unread.VALUE_CENSORED
    if _COMMA.fullmatch(text):
        return np.nan, Unread.COMMA
    return np.nan, Unread.VALUE_TEXT

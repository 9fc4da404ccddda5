"""Checks that look at a row alone, or at a code: names, units, limits, times, statuses.

Each gives marks (N,) by kind of finding. Legend: ``N`` rows, ``C`` codes, ``U`` units.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date

import numpy as np

from medimind.config.forecast import InputConfig
from medimind.forecasting.records.codes import (
    IDENTITY,
    ClinicalCode,
    Conversion,
    find_code,
    has_right_check_digit,
    is_loinc_shaped,
)
from medimind.forecasting.records.raw import RawRows, Unread
from medimind.forecasting.records.table import DAYS_A_YEAR, Flags, Floats
from medimind.forecasting.records.units import (
    DIMENSIONLESS,
    conversion,
    is_ucum,
    ucum_conversion,
    ucum_spelling,
)

Marks = Iterator[tuple[str, Flags]]

FINAL = frozenset({"final", "amended", "corrected"})
_NOT_FINAL = frozenset({"registered", "preliminary", "cancelled", "unknown"})
_PLACEHOLDERS = np.array([-1, -9, -99, -999, -9999, 99, 999, 9999, 99999, 999999])
_LONGEST_LIFE_DAYS = 125 * DAYS_A_YEAR
_FIRST_DAY = (date(1890, 1, 1) - date(1970, 1, 1)).days


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a code of the source stands for.

    Attributes:
        name: LOINC code, or the source's own.
        known: What is known of it.
    """

    name: str
    known: ClinicalCode | None


def meanings(raw: RawRows, config: InputConfig) -> list[Meaning]:
    """The meaning of each code of the source."""
    found = []
    for code in raw.codes:
        mapped = config.codes.get(code, code)
        known = find_code(mapped)
        found.append(Meaning(known.code if known else mapped, known))
    return found


def unread_marks(raw: RawRows) -> Marks:
    """What a reader could not read."""
    yield "patient-missing", raw.patient < 0
    is_header = np.zeros(len(raw.value), dtype=bool)
    again = [index for index, code in enumerate(raw.codes) if code.lower() == "code"]
    if again:
        is_header = np.isin(raw.code, again) & ((raw.unread & Unread.VALUE_TEXT) != 0)
    yield "header-again", is_header
    yield "code-missing", raw.code < 0
    for kind, flag in (
        ("time-missing", Unread.TIME_MISSING),
        ("time-unreadable", Unread.TIME_TEXT),
        ("value-missing", Unread.VALUE_MISSING),
        ("value-comma", Unread.COMMA),
        ("value-censored", Unread.VALUE_CENSORED),
        ("value-text", Unread.VALUE_TEXT),
    ):
        yield kind, ((raw.unread & flag) != 0) & ~is_header


def status_marks(raw: RawRows) -> Marks:
    """Observations that are not final, or of no status that FHIR knows."""
    kinds = np.array([_status_kind(text) for text in raw.statuses] + [""], dtype=object)[raw.status]
    for kind in ("status-entered-in-error", "status-not-final", "status-unknown"):
        yield kind, kinds == kind


def _status_kind(status: str) -> str:
    if status in FINAL:
        return ""
    if status == "entered-in-error":
        return "status-entered-in-error"
    return "status-not-final" if status in _NOT_FINAL else "status-unknown"


def time_marks(raw: RawRows, config: InputConfig) -> Marks:
    """Times that cannot be."""
    readable = (raw.unread & (Unread.TIME_MISSING | Unread.TIME_TEXT)) == 0
    yield "time-not-finite", readable & ~np.isfinite(raw.time)
    if raw.is_dated:
        today = ((config.as_of or date.today()) - date(1970, 1, 1)).days
        yield "time-future", raw.time >= today + 1
        yield "time-impossible", raw.time < _FIRST_DAY
    else:
        # Also a life that is longer than any: a unit of time other than the one that was named.
        finite = np.where(np.isfinite(raw.time), raw.time, 0.0)
        yield "time-impossible", np.abs(finite) > _LONGEST_LIFE_DAYS
    if raw.birth_day is not None and raw.is_dated:
        birth = np.append(raw.birth_day, np.nan)[raw.patient]
        yield "time-before-birth", raw.time < np.floor(birth)


def code_marks(raw: RawRows, codes: list[Meaning]) -> Marks:
    """Codes that look like LOINC's and are none."""
    wrong = [
        index
        for index, one in enumerate(codes)
        if one.known is None and is_loinc_shaped(one.name) and not has_right_check_digit(one.name)
    ]
    yield "code-check-digit", np.isin(raw.code, wrong)


def convert(
    raw: RawRows, codes: list[Meaning], config: InputConfig
) -> tuple[Floats, list[str], list[tuple[str, Flags]]]:
    """Values (N,) in the one unit of each code, that unit, and marks of what cannot be converted.

    A known code has its own unit. Another takes the unit that most of its rows have; what UCUM
    knows how to convert into that is converted.
    """
    value = raw.value.astype(np.float64, copy=True)
    marks = {
        kind: np.zeros(len(value), dtype=bool)
        for kind in ("unit-missing", "unit-unknown", "unit-not-allowed", "unit-mixed")
    }
    num_units = len(raw.units)
    pair = np.where(raw.code >= 0, raw.code.astype(np.int64) * (num_units + 1) + raw.unit + 1, -1)
    pairs, counts = np.unique(pair, return_counts=True)
    order, ends = np.argsort(pair, kind="stable"), np.cumsum(counts)
    by_code: dict[int, dict[str, int]] = {}
    for one, count in zip(pairs.tolist(), counts.tolist()):
        if one >= 0:
            code, unit = divmod(one, num_units + 1)
            text = raw.units[unit - 1] if unit else _default(raw.codes[code], codes[code], config)
            by_code.setdefault(code, {}).setdefault(text or "", 0)
            by_code[code][text or ""] += count
    units = []
    for index, meaning in enumerate(codes):
        texts = by_code.get(index, {})
        units.append(meaning.known.unit if meaning.known else _usual_unit(texts))
    for one, start, end in zip(pairs.tolist(), (ends - counts).tolist(), ends.tolist()):
        if one < 0:
            continue
        code, unit = divmod(one, num_units + 1)
        text = raw.units[unit - 1] if unit else _default(raw.codes[code], codes[code], config)
        result = _conversion(text, codes[code].known, units[code])
        if result == IDENTITY:
            continue
        rows = order[start:end]
        if isinstance(result, str):
            marks[result][rows] = True
        else:
            value[rows] = value[rows] * result.factor + result.offset
    return value, units, list(marks.items())


def _default(code: str, meaning: Meaning, config: InputConfig) -> str | None:
    """The unit of rows that name none."""
    named = config.units.get(code) or config.units.get(meaning.name)
    if named:
        return named
    if meaning.known is None or meaning.known.unit in DIMENSIONLESS:
        return "1"
    return None


def _usual_unit(texts: dict[str, int]) -> str:
    spelled: dict[str, int] = {}
    for text, count in texts.items():
        spelled[ucum_spelling(text)] = spelled.get(ucum_spelling(text), 0) + count
    return max(spelled, key=lambda text: spelled[text]) if spelled else "1"


def _conversion(unit: str | None, known: ClinicalCode | None, into: str) -> Conversion | str:
    """How to convert, or the kind of finding that says why not."""
    if unit is None:
        return "unit-missing"
    if known is not None:
        found = conversion(unit, known)
        if found is not None:
            return found
        return "unit-not-allowed" if is_ucum(ucum_spelling(unit)) else "unit-unknown"
    spelled = ucum_spelling(unit)
    if spelled == into:
        return IDENTITY
    return ucum_conversion(spelled, into) or "unit-mixed"


def value_marks(
    raw: RawRows, value: Floats, usable: Flags, codes: list[Meaning], config: InputConfig
) -> Marks:
    """Values that no body has, and numbers that stand for nothing."""
    readable = (
        raw.unread
        & (Unread.VALUE_MISSING | Unread.VALUE_TEXT | Unread.VALUE_CENSORED | Unread.COMMA)
    ) == 0
    yield "value-not-finite", readable & ~np.isfinite(value)
    outside, placeholder = np.zeros(len(value), dtype=bool), np.zeros(len(value), dtype=bool)
    order = np.argsort(raw.code, kind="stable")
    starts = np.searchsorted(raw.code[order], np.arange(len(codes) + 1))
    for index, meaning in enumerate(codes):
        rows = order[starts[index] : starts[index + 1]]
        rows = rows[usable[rows] & np.isfinite(value[rows])]
        limits = config.limits.get(raw.codes[index]) or config.limits.get(meaning.name)
        low, high = _limits(meaning, limits)
        mine = value[rows]
        outside[rows] = (mine < low) | (mine > high)
        stands_out = np.isin(raw.value[rows], _PLACEHOLDERS) & _lies_apart(mine)
        placeholder[rows] = stands_out
    yield "value-placeholder", placeholder
    yield "value-physiology", outside & ~placeholder


def _limits(meaning: Meaning, limits: object) -> tuple[float, float]:
    if limits is not None:
        return limits.low, limits.high  # type: ignore[attr-defined]
    if meaning.known is not None:
        return meaning.known.low, meaning.known.high
    return -np.inf, np.inf


def _lies_apart(value: Floats) -> Flags:
    """Whether each value lies far from all that are no placeholder."""
    others = value[~np.isin(value, _PLACEHOLDERS)]
    if len(others) < 10:
        return np.zeros(len(value), dtype=bool)
    low, high = float(others.min()), float(others.max())
    reach = max(high - low, 1e-9)
    is_below = (value < low) & ((low >= 0) | (value < low - reach))
    return (is_below & (value < 0)) | (value > high + reach)

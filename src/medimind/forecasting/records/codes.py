"""What is known of clinical codes: units and their conversion, limits, decimals, direction."""

from __future__ import annotations

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Literal, cast

Direction = Literal["up", "down", "both"]

_CONVERSION = re.compile(r"(?P<unit>.+)\*(?P<factor>[\d.]+)(?P<offset>[+-][\d.]+)?")
_LOINC = re.compile(r"\d{1,7}-\d")


@dataclass(frozen=True, slots=True)
class Conversion:
    """``value in the code's unit = factor * value + offset``."""

    factor: float
    offset: float = 0.0


IDENTITY = Conversion(1.0)


@dataclass(frozen=True, slots=True)
class ClinicalCode:
    """A measurement the project knows.

    Attributes:
        code: LOINC code, or a local name for scores without one that we could check.
        short: What texts and charts call it; several methods may share it.
        name: Full name.
        unit: UCUM unit its values are kept in.
        conversions: Other units that are allowed -> conversion into ``unit``.
        low: Values below are outside of physiology, or of the score's range.
        high: Values above are.
        decimals: Digits after the point that are reported.
        worse: Which way a disease usually takes it.
        usual: A value of an adult in health; tells which side of a tenfold jump is the wrong one.
        is_steady: Whether a tenfold change between two visits does not happen in one person.
        aliases: Lower-case names it is also found under.
    """

    code: str
    short: str
    name: str
    unit: str
    conversions: Mapping[str, Conversion]
    low: float
    high: float
    decimals: int
    worse: Direction
    usual: float
    is_steady: bool
    aliases: tuple[str, ...]


@cache
def clinical_codes() -> Mapping[str, ClinicalCode]:
    """Every known code by its name, from ``codes.csv``."""
    text = files("medimind.forecasting.records").joinpath("codes.csv").read_text(encoding="utf-8")
    return {row["code"]: _read_row(row) for row in csv.DictReader(text.splitlines())}


@cache
def codes_by_alias() -> Mapping[str, str]:
    """Lower-case name -> code."""
    return {alias: known.code for known in clinical_codes().values() for alias in known.aliases}


def find_code(name: str) -> ClinicalCode | None:
    """What is known of a code, or of a name such as ``creatinine``; ``None`` for others'."""
    known = clinical_codes()
    if name in known:
        return known[name]
    code = codes_by_alias().get(name.strip().lower())
    return known[code] if code else None


def is_loinc_shaped(code: str) -> bool:
    """Whether it is written as a LOINC code: digits, a hyphen, a check digit."""
    return _LOINC.fullmatch(code) is not None


def has_right_check_digit(code: str) -> bool:
    """Whether the last digit of a LOINC code fits the others (mod 10, as Luhn's)."""
    digits = [int(digit) for digit in code.replace("-", "")]
    total = 0
    for place, digit in enumerate(reversed(digits)):
        doubled = digit * 2 if place % 2 else digit
        total += doubled - 9 if doubled > 9 else doubled
    return total % 10 == 0


def _read_row(row: Mapping[str, str]) -> ClinicalCode:
    conversions = {}
    for text in filter(None, row["other_units"].split(";")):
        found = _CONVERSION.fullmatch(text)
        if found is None:
            raise AssertionError(f"codes.csv: {row['code']} has the conversion {text!r}")
        conversions[found["unit"]] = Conversion(float(found["factor"]), float(found["offset"] or 0))
    return ClinicalCode(
        code=row["code"],
        short=row["short"],
        name=row["name"],
        unit=row["unit"],
        conversions=conversions,
        low=float(row["low"]),
        high=float(row["high"]),
        decimals=int(row["decimals"]),
        worse=cast(Direction, row["worse"]),
        usual=float(row["usual"]),
        is_steady=row["steady"] == "yes",
        aliases=tuple(filter(None, row["aliases"].split(";"))),
    )

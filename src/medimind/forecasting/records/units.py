"""Units as UCUM, and the conversion of a code's values into the one unit they are kept in."""

from __future__ import annotations

import re
from functools import cache
from typing import Any

from medimind.errors import MissingExtraError
from medimind.forecasting.records.codes import IDENTITY, ClinicalCode, Conversion

DIMENSIONLESS = frozenset({"", "1", "{score}", "{points}", "{ratio}", "{INR}", "{sqrt}"})

# How laboratories write units that UCUM spells otherwise; looked up in lower case without spaces.
_SPELLINGS = {
    "mmhg": "mm[Hg]",
    "torr": "mm[Hg]",
    "mg/dl": "mg/dL",
    "g/dl": "g/dL",
    "ng/dl": "ng/dL",
    "ug/dl": "ug/dL",
    "g/l": "g/L",
    "mg/l": "mg/L",
    "ug/l": "ug/L",
    "ng/l": "ng/L",
    "ng/ml": "ng/mL",
    "pg/ml": "pg/mL",
    "mmol/l": "mmol/L",
    "umol/l": "umol/L",
    "micromol/l": "umol/L",
    "nmol/l": "nmol/L",
    "pmol/l": "pmol/L",
    "meq/l": "meq/L",
    "u/l": "U/L",
    "iu/l": "[IU]/L",
    "miu/l": "m[IU]/L",
    "uiu/ml": "u[IU]/mL",
    "10^3/ul": "10*3/uL",
    "10e3/ul": "10*3/uL",
    "x10e3/ul": "10*3/uL",
    "k/ul": "10*3/uL",
    "thou/ul": "10*3/uL",
    "10^9/l": "10*9/L",
    "10e9/l": "10*9/L",
    "x10^9/l": "10*9/L",
    "10^6/ul": "10*6/uL",
    "m/ul": "10*6/uL",
    "10^12/l": "10*12/L",
    "cells/ul": "{cells}/uL",
    "cells/mm3": "{cells}/uL",
    "/mm3": "/uL",
    "copies/ml": "{copies}/mL",
    "ml/min/1.73m2": "mL/min/{1.73_m2}",
    "ml/min/1.73m^2": "mL/min/{1.73_m2}",
    "ml/min/1.73.m2": "mL/min/{1.73_m2}",
    "ml/min/{1.73_m2}": "mL/min/{1.73_m2}",
    "ml/min/{1.73m2}": "mL/min/{1.73_m2}",
    "ml/min/1.73m²": "mL/min/{1.73_m2}",
    "ml/min": "mL/min",
    "percent": "%",
    "sec": "s",
    "seconds": "s",
    "kg/m^2": "kg/m2",
    "kg/m²": "kg/m2",
    "lb": "[lb_av]",
    "lbs": "[lb_av]",
    "in": "[in_i]",
    "inches": "[in_i]",
    "degc": "Cel",
    "°c": "Cel",
    "celsius": "Cel",
    "degf": "[degF]",
    "°f": "[degF]",
    "bpm": "/min",
    "beats/min": "{beats}/min",
    "breaths/min": "{breaths}/min",
    "mm/hr": "mm/h",
    "score": "{score}",
    "points": "{score}",
    "inr": "{INR}",
    "liters": "L",
    "litres": "L",
}
_TIME_UNITS = {"s": 1 / 86400, "min": 1 / 1440, "h": 1 / 24, "d": 1.0, "wk": 7.0}
_TIME_UNITS |= {"mo": 365.25 / 12, "a": 365.25}


def days_in(time_unit: str) -> float:
    """Days in a UCUM unit of time: ``s``, ``min``, ``h``, ``d``, ``wk``, ``mo``, ``a``."""
    return _TIME_UNITS[time_unit]


def ucum_spelling(unit: str) -> str:
    """The unit as UCUM writes it, where laboratories have another habit; else as it was given."""
    text = unit.strip().replace("\N{MICRO SIGN}", "u").replace("\N{GREEK SMALL LETTER MU}", "u")
    return _SPELLINGS.get(re.sub(r"\s+", "", text).lower(), text)


def is_same_unit(one: str, other: str) -> bool:
    """Whether two texts spell one unit; all plain numbers are alike."""
    if one in DIMENSIONLESS and other in DIMENSIONLESS:
        return True
    return ucum_spelling(one) == ucum_spelling(other)


def conversion(unit: str, known: ClinicalCode) -> Conversion | None:
    """How values in ``unit`` become values in the code's unit; ``None`` where they cannot.

    The code's own table comes first, for it knows molar masses. Other units are parsed as UCUM and
    converted where the dimensions agree.
    """
    if unit == known.unit or (unit in DIMENSIONLESS and known.unit in DIMENSIONLESS):
        return IDENTITY
    spelled = ucum_spelling(unit)
    for text in (unit, spelled):
        if text == known.unit:
            return IDENTITY
        if text in known.conversions:
            return known.conversions[text]
    return ucum_conversion(spelled, known.unit)


@cache
def ucum_conversion(unit: str, into: str) -> Conversion | None:
    """The factor between two UCUM units of one dimension; ``None`` where there is none.

    Counted things are no dimension of UCUM's, so ``{score}`` and ``%`` would become one another,
    and an arbitrary unit such as ``[IU]`` anything: these are never converted here.

    Raises:
        MissingExtraError: The package that knows UCUM is not installed.
    """
    if unit == into:
        return IDENTITY
    if any(_is_arbitrary(text) for text in (unit, into)):
        return None
    registry = _ucum_registry()
    try:
        source, target = registry.from_ucum(unit), registry.from_ucum(into)
        if source.dimensionality != target.dimensionality or source.dimensionless:
            return None
        return Conversion(float((1.0 * source).to(target.units).magnitude / target.magnitude))
    except Exception:  # the parser and pint raise dozens of kinds for text that is no unit
        return None


def is_ucum(unit: str) -> bool:
    """Whether the text is a unit that UCUM can express."""
    if unit in DIMENSIONLESS or unit in _SPELLINGS.values():
        return True
    try:
        _ucum_registry().from_ucum(unit)
    except MissingExtraError:
        raise
    except Exception:  # see above
        return False
    return True


def _is_arbitrary(unit: str) -> bool:
    return unit in DIMENSIONLESS or "{" in unit or "[IU]" in unit or "%" in unit or "[deg" in unit


@cache
def _ucum_registry() -> Any:
    try:
        from ucumvert import PintUcumRegistry
    except ImportError as error:
        raise MissingExtraError("ucumvert", extra="forecast") from error
    return PintUcumRegistry()

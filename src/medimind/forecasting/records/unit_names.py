"""Units as clinicians write them, beside UCUM: ``mL/min/1.73 m²`` for ``mL/min/{1.73_m2}``.

Files keep UCUM, which machines compare; whatever people read has the written form. Texts that
people or models write are read back by `ucum_of`, whichever form they use.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache

from medimind.forecasting.records.codes import clinical_codes, find_code
from medimind.forecasting.records.table import DAYS_A_YEAR

_WRITTEN = {
    "": "",
    "1": "",
    "{INR}": "",
    "{ratio}": "",
    "{score}": "points",
    "{points}": "points",
    "mL/min/{1.73_m2}": "mL/min/1.73 m²",
    "mL/s/{1.73_m2}": "mL/s/1.73 m²",
    "mm[Hg]": "mmHg",
    "Cel": "°C",
    "[degF]": "°F",
    "[lb_av]": "lb",
    "[in_i]": "in",
    "um3": "µm³",
}
_SUPERSCRIPTS = str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹")
_POWER_OF_TEN = re.compile(r"10\*(\d+)")
_MICRO = re.compile(r"(?<![A-Za-z])u(?=(?:mol|kat|g|L|IU|m)\b)")
_METRES = re.compile(r"(?<![A-Za-z\d])([cm]?m)([23])\b")


@cache
def written_unit(unit: str) -> str:
    """The unit of a UCUM code as it stands in a report; "" for plain numbers."""
    if unit in _WRITTEN:
        return _WRITTEN[unit]
    text = _POWER_OF_TEN.sub(lambda found: "10" + found[1].translate(_SUPERSCRIPTS), unit)
    text = re.sub(r"[{}\[\]]", "", text).replace("_", " ")
    text = _MICRO.sub("µ", text)
    return _METRES.sub(lambda found: found[1] + found[2].translate(_SUPERSCRIPTS), text)


def titled(name: str, unit: str) -> str:
    """``eGFR (mL/min/1.73 m²)``, or the name alone for plain numbers."""
    written = written_unit(unit)
    return f"{name} ({written})" if written else name


def with_unit(number: str, unit: str) -> str:
    """``61 mL/min/1.73 m²``, ``6.5 %`` or ``0.72``."""
    return f"{number} {written_unit(unit)}".rstrip()


def written_value(code: str, value: float) -> str:
    """A value with the digits that its code is reported with."""
    known = find_code(code)
    if known is None:
        return f"{value:.4g}"
    digits = known.decimals if abs(value) >= 10 else max(known.decimals, 2)
    return f"{value:.{digits}f}"


def written_days(days: float) -> str:
    """A horizon as years or months where that is what it is: ``6 months`` for 182 days."""
    for unit, length in (("year", DAYS_A_YEAR), ("month", DAYS_A_YEAR / 12)):
        count = round(days / length)
        if count and abs(count * length - days) <= max(1.0, 0.006 * days):
            return f"{count} {unit}{'' if count == 1 else 's'}"
    return "1 day" if days == 1 else f"{days:g} days"


@cache
def ucum_names(units: tuple[str, ...] = ()) -> Mapping[str, str]:
    """Lower-case spelling -> UCUM, of these units and all that the project's codes are measured in.

    Units that two spellings share belong to the first that is given. Plain numbers have none.
    """
    known = [*units, *(code.unit for code in clinical_codes().values())]
    known += [unit for code in clinical_codes().values() for unit in code.conversions]
    names: dict[str, str] = {}
    for unit in known:
        for text in (unit, written_unit(unit)):
            if text and unit not in ("", "1"):
                for spelling in (text, text.replace("µ", "μ"), text.replace(" ", "")):
                    names.setdefault(spelling.lower(), unit)
    return names

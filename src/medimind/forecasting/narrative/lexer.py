"""A text as tokens: numbers with their units, horizons, names, words, ends of sentences."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from medimind.forecasting.narrative.facts import Facts
from medimind.forecasting.records.unit_names import ucum_names, written_unit

Kind = Literal["number", "range", "horizon", "code", "risk", "patient", "stranger", "unit",
               "word", "stop"]  # fmt: skip

_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten",
          "eleven", "twelve", "thirteen", "fourteen", "fifteen", "sixteen", "seventeen",
          "eighteen", "nineteen", "twenty")  # fmt: skip
_NUMBER_WORDS = {word: float(value) for value, word in enumerate(_WORDS)}
_NUMBER_WORDS |= {"thirty": 30.0, "forty": 40.0, "fifty": 50.0, "sixty": 60.0, "hundred": 100.0}
_DAYS = {"day": 1.0, "week": 7.0, "month": 30.4375, "year": 365.25}
_NUMBER = r"[+\-−]?\d+(?:,\d{3})+(?:\.\d+)?|[+\-−]?\d+(?:\.\d+)?(?:e[+-]?\d+)?"
# Ways in which texts write units, beside UCUM and the written form.
_SPOKEN_UNITS = {
    "ml/min/1.73 m2": "mL/min/{1.73_m2}", "ml/min/1.73m2": "mL/min/{1.73_m2}",
    "ml/min": "mL/min/{1.73_m2}", "percent": "%", "per cent": "%", "percentage points": "%",
}  # fmt: skip
# Units of a letter or a word would match within sentences; these do not.
_WORDLIKE_UNITS = frozenset({"cel", "kpa", "cm", "kg", "mmhg", "points"})


@dataclass(frozen=True, slots=True)
class Token:
    """One token.

    Attributes:
        kind: What it is.
        text: As written.
        start: Place in the text.
        value: Of a number; days of a horizon.
        decimals: Digits after the point of a number.
        unit: Unit that follows a number, UCUM; "" if none does.
        name: Code, or name of a line or event.
        high: Upper end of a range.
    """

    kind: Kind
    text: str
    start: int
    value: float = 0.0
    decimals: int = 0
    unit: str = ""
    name: str = ""
    high: Token | None = None


def tokens_of(text: str, facts: Facts) -> list[Token]:
    """The tokens; a range (``61 to 70``, ``between 61 and 70``) is one."""
    units = _units(facts)
    pattern = _pattern(facts, units)
    found: list[Token] = []
    for match in pattern.finditer(text):
        group = match.lastgroup or "word"
        content = match[0]
        start = match.start()
        if group == "risk":
            name = next(one for one in facts.risks if one.lower() == content.lower())
            found.append(Token("risk", content, start, name=name))
        elif group == "patient":
            found.append(Token("patient", content, start))
        elif group == "code":
            found.append(Token("code", content, start, name=facts.names[content.lower()]))
        elif group == "stranger":
            found.append(Token("stranger", content, start))
        elif group == "unit":
            found.append(Token("unit", content, start, unit=units.get(content.lower(), content)))
        elif group == "number":
            value, decimals = _value(content)
            found.append(Token("number", content, start, value=value, decimals=decimals))
        elif group == "stop":
            found.append(Token("stop", content, start))
        elif content.lower() in _NUMBER_WORDS:
            found.append(Token("number", content, start, value=_NUMBER_WORDS[content.lower()]))
        else:
            found.append(Token("word", content, start))
    return _joined(found)


def _units(facts: Facts) -> dict[str, str]:
    """Lower-case spelling -> UCUM; the document's own units come before all others."""
    own = [part["unit"] for part in facts.codes.values()]
    known = {**ucum_names(), **_SPOKEN_UNITS}
    for unit in own:
        known |= {text.lower(): unit for text in (unit, written_unit(unit)) if text}
    return {text: unit for text, unit in known.items() if text != "1"}


def _pattern(facts: Facts, units: dict[str, str]) -> re.Pattern[str]:
    def any_of(names: list[str], *, whole: bool = True) -> str:
        parts = "|".join(re.escape(name) for name in sorted(names, key=len, reverse=True))
        if not parts:
            return r"(?!)"
        return rf"(?<![\w]){'(?:' + parts + ')'}(?![\w])" if whole else f"(?:{parts})"

    written = [one for one in units if not one.isalnum() or one in (*_WORDLIKE_UNITS, "percent")]
    written.remove("%")
    # The document's own, such as L or s, are units where a number stands before them.
    own = [part["unit"] for part in facts.codes.values() if part["unit"].isalpha()]
    after_number = rf"(?:(?<=\d)|(?<=\d\s)){any_of(own, whole=False)}(?!\w)"
    return re.compile(
        "|".join(
            [
                f"(?P<risk>{any_of(list(facts.risks))})",
                f"(?P<patient>{any_of([str(facts.document['patient'])])})",
                f"(?P<code>{any_of(list(facts.names))})",
                f"(?P<stranger>{any_of([n for n in facts.strangers if len(n) > 1])})",
                f"(?P<unit>{any_of(written, whole=False)}(?![a-z])|%|{after_number})",
                rf"(?P<number>(?<![\w.]){'(?:' + _NUMBER + ')'}(?![\w]))",
                r"(?P<stop>[.!?;:](?=\s|$)|\n)",
                r"(?P<word>[^\W\d_][\w'’-]*|\w+|[<>≥≤=]+|[–—-])",
            ]
        ),
        re.IGNORECASE,
    )


def _value(text: str) -> tuple[float, int]:
    plain = text.replace(",", "").replace("−", "-")
    decimals = len(plain.partition(".")[2]) if "e" not in plain.lower() else 9
    return float(plain), decimals


def _joined(tokens: list[Token]) -> list[Token]:
    """Numbers with the unit, or the unit of time, that follows; then ranges."""
    united: list[Token] = []
    skip = False
    for index, token in enumerate(tokens):
        if skip:
            skip = False
            continue
        after = tokens[index + 1] if index + 1 < len(tokens) else None
        word = after.text.lower().removesuffix("s") if after is not None else ""
        if token.kind == "word" and token.text.lower() == "a" and word in _DAYS:
            token = Token("number", token.text, token.start, value=1.0)
        if token.kind == "number" and after is not None:
            if after.kind == "unit":
                token = _with(token, unit=after.unit)
                skip = True
            elif after.kind == "word" and word in _DAYS:
                text = f"{token.text} {after.text}"
                token = Token("horizon", text, token.start, token.value * _DAYS[word])
                skip = True
        united.append(token)
    return _ranges(united)


def _ranges(tokens: list[Token]) -> list[Token]:
    found: list[Token] = []
    index = 0
    while index < len(tokens):
        low = tokens[index]
        between = tokens[index + 1].text.lower() if index + 1 < len(tokens) else ""
        high = tokens[index + 2] if index + 2 < len(tokens) else None
        before = found[-1].text.lower() if found else ""
        is_range = (between in ("to", "–", "—", "-", "through") and before != "from") or (
            between == "and" and before == "between"
        )
        if low.kind == "number" and high is not None and high.kind == "number" and is_range:
            unit = low.unit or high.unit
            found.append(
                Token("range", f"{low.text} {between} {high.text}", low.start, low.value,
                      low.decimals, unit, high=high)
            )  # fmt: skip
            index += 3
            continue
        found.append(low)
        index += 1
    return found


def _with(token: Token, *, unit: str) -> Token:
    return Token(token.kind, token.text, token.start, token.value, token.decimals, unit, token.name)

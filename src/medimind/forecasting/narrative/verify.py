"""Is every claim of a text in the forecast's document?

A text passes only if each number, unit, direction and name in it is traced to the document; what a
number claims is read off the sentence:

| in the sentence | the number must be |
|---|---|
| ``risk``, ``probability``, ``chance``, % | the named line's or event's risk at or by then |
| ``90 % interval ... 61 to 70`` | that interval's ends at the horizon |
| ``from``, ``last``, ``currently``, ``measured`` before it | the last measured value |
| ``below``, ``above``, ``line`` before it | the value of a line |
| ``similar patients``, ``neighbours`` | their median or quartiles at the horizon |
| ``error``, ``less`` | the model's error, or its skill over the last value |
| else | the forecast at the horizon |

A horizon belongs to the numbers after it if the sentence names one before its first number, else to
those before it. Whatever cannot be told is refused: a text refused for nothing costs a second try,
a wrong number costs trust.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from medimind.forecasting.narrative.facts import (
    FALLING,
    METHODS,
    RISING,
    SAME,
    Facts,
    direction,
    facts_of,
)
from medimind.forecasting.narrative.lexer import Token, tokens_of
from medimind.forecasting.narrative.words import (
    ALLOWED_CAPITALS,
    DIRECTIONS,
    NEGATIONS,
    UNTRACEABLE,
    looks_clinical,
)
from medimind.forecasting.records.unit_names import written_unit

_AHEAD = 5
_HORIZON_SLACK = 0.016
_SMALLEST_RISK = 0.1


@dataclass(frozen=True, slots=True)
class Problem:
    """A claim that is not in the document.

    Attributes:
        text: The words.
        start: Their place.
        reason: Why.
    """

    text: str
    start: int
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """What verification says.

    Attributes:
        problems: Claims that were not traced; none means the text passes.
        num_numbers: Numbers in the text.
        num_traced: Of them traced.
    """

    problems: tuple[Problem, ...]
    num_numbers: int
    num_traced: int

    @property
    def passes(self) -> bool:
        """Whether every claim was traced."""
        return not self.problems


def verify(text: str, document: Mapping[str, Any]) -> Verdict:
    """Every claim of the text held against the document."""
    facts = facts_of(document)
    reader = _Reader(facts)
    sentence: list[Token] = []
    for token in [*tokens_of(text, facts), Token("stop", "", len(text))]:
        if token.kind == "stop":
            reader.sentence(sentence)
            sentence = []
        else:
            sentence.append(token)
    return Verdict(tuple(reader.problems), reader.num_numbers, reader.num_traced)


@dataclass
class _Reader:
    """Goes through sentences; remembers what was named last."""

    facts: Facts
    problems: list[Problem] = field(default_factory=list)
    num_numbers: int = 0
    num_traced: int = 0
    code: str = ""
    risk: str = ""

    def sentence(self, tokens: list[Token]) -> None:
        """Check one sentence."""
        words = {token.text.lower() for token in tokens if token.kind == "word"}
        claims = [token.kind in ("number", "range", "code", "risk") for token in tokens]
        first = tokens[claims.index(True)] if any(claims) else None
        if first is not None and first.kind in ("number", "range"):
            # "61 is expected for eGFR": what is named later in the sentence is meant.
            self.code = next((one.name for one in tokens if one.kind == "code"), self.code)
        for index, token in enumerate(tokens):
            if token.kind == "code":
                self.code = token.name
            elif token.kind == "risk":
                self.risk = token.name
                self.code = self.facts.risks[token.name].get("code", self.code)
            elif token.kind == "stranger":
                self._refuse(token, "the document has no such measurement")
            elif token.kind == "unit":
                self._refuse(token, "a unit without a number")
            elif token.kind == "horizon":
                self._count(self._time(tokens, index, words), token)
            elif token.kind == "number":
                self._count(self._number(tokens, index, words), token)
            elif token.kind == "range":
                self.num_numbers += 1
                self._count(self._range(tokens, index, words), token)
            elif token.kind == "word":
                self._word(tokens, index, words)

    def _refuse(self, token: Token, reason: str) -> None:
        self.problems.append(Problem(token.text, token.start, reason))

    def _count(self, reason: str, token: Token) -> None:
        self.num_numbers += 1
        if reason:
            self._refuse(token, reason)
        else:
            self.num_traced += 2 if token.kind == "range" else 1

    def _time(self, tokens: list[Token], index: int, words: set[str]) -> str:
        days = tokens[index].value
        if words & {"apart", "confirmed", "confirm", "confirmation"}:
            rules = {risk.get("confirm_days") for risk in self.facts.risks.values()}
            return "" if days in rules else "no line is confirmed after that time"
        if self._horizon_of(days) is None:
            return "no forecast has this horizon"
        return ""

    def _horizon_of(self, days: float) -> float | None:
        near = [h for h in self.facts.horizons() if abs(h - days) <= max(1.0, _HORIZON_SLACK * h)]
        return min(near, key=lambda h: abs(h - days)) if near else None

    def _horizon(self, tokens: list[Token], index: int) -> float | None:
        """The horizon that a number of the sentence belongs to."""
        place = self._horizon_place(tokens, index)
        return None if place is None else self._horizon_of(tokens[place].value)

    def _horizon_place(self, tokens: list[Token], index: int) -> int | None:
        times = [i for i, token in enumerate(tokens) if token.kind == "horizon"]
        values = [i for i, token in enumerate(tokens) if token.kind in ("number", "range")]
        if not times:
            return None
        before = [i for i in times if i < index]
        after = [i for i in times if i > index]
        leads = times[0] < values[0]
        chosen = (before[-1:] or after[:1]) if leads else (after[:1] or before[-1:])
        return chosen[0]

    def _number(self, tokens: list[Token], index: int, words: set[str]) -> str:
        token = tokens[index]
        near = _before(tokens, index)
        follows = [one.text.lower() for one in tokens[index + 1 : index + 3]]
        if follows[:1] and follows[0] in _COUNTED:
            return self._counted(token, follows[0], words)
        if len(follows) > 1 and follows[0] in _SIMILAR_WORDS and follows[1] in _COUNTED:
            return self._counted(token, follows[0], words)
        if token.unit == "%" and any(word in _LEVEL_WORDS for word in follows[:2]):
            return "" if token.value in (50, 80, 90) else "no interval has this level"
        if words & _RISK_WORDS and token.unit in ("%", ""):
            return self._risk(tokens, index)
        if token.unit == "%" and words & {"less", "lower", "skill", "smaller", "better"}:
            part = self.facts.codes.get(self.code)
            if part is None:
                return "no measurement is named"
            return _equal(token, part["model"]["skill_percent"], "the skill")
        return self._value(tokens, index, words, near)

    def _value(self, tokens: list[Token], index: int, words: set[str], near: list[str]) -> str:
        token = tokens[index]
        part = self.facts.codes.get(self.code)
        if part is None:
            return "no measurement is named"
        if token.unit and token.unit != part["unit"]:
            return f"the unit of {part['name']} is {written_unit(part['unit'])}"
        if words & {"error", "errors"}:
            is_last = bool({"last", "carried"} & set(near))
            name = "error_last_value" if is_last else "error"
            return _equal(token, part["model"][name], "the error")
        if set(near[-3:]) & _LINE_WORDS:
            lines = [line["value"] for line in part["lines"]]
            return "" if any(_is(token, one) for one in lines) else "no line lies there"
        if set(near) & _PAST_WORDS:
            last = self.facts.last(self.code)
            return _equal(token, last, "the last value")
        days = self._horizon(tokens, index)
        if days is None:
            return "no horizon that this value could belong to"
        if words & _SIMILAR_WORDS:
            quartiles = self.facts.neighbours(self.code, days)
            middle = quartiles[1] if quartiles else None
            return _equal(token, middle, "the median of similar patients")
        row = self.facts.forecast(self.code, days)
        return _equal(token, row["value"] if row else None, "the forecast")

    def _range(self, tokens: list[Token], index: int, words: set[str]) -> str:
        token = tokens[index]
        part = self.facts.codes.get(self.code)
        high = token.high
        if part is None or high is None:
            return "no measurement is named"
        for unit in (token.unit, high.unit):
            if unit and unit != part["unit"]:
                return f"the unit of {part['name']} is {written_unit(part['unit'])}"
        days = self._horizon(tokens, index)
        if days is None:
            return "no horizon that this range could belong to"
        if words & _SIMILAR_WORDS:
            quartiles = self.facts.neighbours(self.code, days)
            ends = [quartiles[0], quartiles[2]] if quartiles else None
        else:
            row = self.facts.forecast(self.code, days)
            levels = [
                one for i, one in enumerate(tokens)
                if one.kind == "number" and one.unit == "%"
                and any(t.text.lower() in _LEVEL_WORDS for t in tokens[i + 1 : i + 3])
            ]  # fmt: skip
            before = [one for one in levels if one.start < token.start]
            chosen = (before[-1:] or levels[:1])[:1]
            if not chosen:
                return "no level of this interval is named"
            ends = row["intervals"].get(f"{chosen[0].value:g}") if row else None
        if not ends or not (_is(token, ends[0]) and _is(high, ends[1])):
            return "the document has another interval"
        return ""

    def _risk(self, tokens: list[Token], index: int) -> str:
        token = tokens[index]
        name = self._risk_name(tokens, token)
        if not name:
            return "no line or event is named"
        days = self._horizon(tokens, index)
        if days is None:
            return "no horizon that this risk could belong to"
        row = self.facts.risk(name, days)
        if row is None:
            return "the document has no such risk"
        cue = set(_before(tokens, self._horizon_place(tokens, index) or 0)[-2:])
        kind = "at_percent" if "at" in cue and not cue & {"by", "within"} else "by_percent"
        if set(_before(tokens, index)[-2:]) & {"than", "below", "under"}:
            is_less = row[kind] is not None and row[kind] < token.value == _SMALLEST_RISK
            return "" if is_less else "the risk is not that small"
        return _equal(token, row[kind], "the risk")

    def _risk_name(self, tokens: list[Token], token: Token) -> str:
        """The line or event of the sentence that was named last before a token, or first after."""
        named = [one.name for one in tokens if one.kind == "risk" and one.start < token.start]
        later = [one.name for one in tokens if one.kind == "risk" and one.start > token.start]
        return (named[-1:] or later[:1] or [self.risk])[0]

    def _counted(self, token: Token, what: str, words: set[str]) -> str:
        part = self.facts.codes.get(self.code)
        if part is None:
            return "no measurement is named"
        if what.startswith(("measurement", "value", "visit")):
            return _equal(token, part["evidence"]["num_measurements"], "the count")
        if words & _SIMILAR_WORDS or what in _SIMILAR_WORDS:
            found = part["neighbours"]
            return _equal(token, found["num_patients"] if found else None, "their number")
        if what.startswith("error"):
            return _equal(token, part["model"]["calibration_errors"], "the count")
        name = "calibration_patients" if any("calibrat" in w for w in words) else "num_patients"
        return _equal(token, part["model"][name], "the count")

    def _word(self, tokens: list[Token], index: int, words: set[str]) -> None:
        token = tokens[index]
        word = token.text.lower()
        if word in UNTRACEABLE:
            self._refuse(token, "a quantity that is no number of the document")
        elif word in DIRECTIONS:
            self._direction(tokens, index, words)
        elif self._is_foreign(tokens, index):
            self._refuse(token, "a name that is not in the document")

    def _is_foreign(self, tokens: list[Token], index: int) -> bool:
        token = tokens[index]
        word = token.text
        if word.lower() in self._own_words():
            return False
        if looks_clinical(word):
            return True
        has_digits = any(letter.isdigit() for letter in word)
        is_name = index > 0 and word[:1].isupper() and word not in ALLOWED_CAPITALS
        return has_digits or is_name

    def _own_words(self) -> set[str]:
        parts = [str(self.facts.document["patient"]), *self.facts.risks, *METHODS]
        parts += [part["model"]["method"] for part in self.facts.codes.values()]
        return {word for part in parts for word in re.findall(r"[\w'-]+", part.lower())}

    def _direction(self, tokens: list[Token], index: int, words: set[str]) -> None:
        token = tokens[index]
        meaning = DIRECTIONS[token.text.lower()]
        follows = [one.text.lower() for one in tokens[index + 1 : index + 4]]
        near = _before(tokens, index)
        if words & _RISK_WORDS or any(one.kind == "risk" for one in tokens):
            self._crossing(token, meaning, self._risk_name(tokens, token))
            return
        if set(near[-_AHEAD:]) & NEGATIONS:
            self._refuse(token, "a denied direction cannot be traced")
            return
        part = self.facts.codes.get(self.code)
        if part is None:
            self._refuse(token, "no measurement is named")
            return
        if meaning in ("worse", "better"):
            if part["worse"] not in ("up", "down"):
                self._refuse(token, "the document does not say which way is worse")
                return
            is_up = (part["worse"] == "up") == (meaning == "worse")
            meaning = RISING if is_up else FALLING
        last = self.facts.last(self.code)
        if set(near[-_AHEAD:]) & _SO_FAR or set(follows[:3]) & {"far", "past"}:
            history = part["history"]
            actual = {direction(history[0]["value"], last, part)} if history else {None}
        else:
            days = self._horizon(tokens, index) if _has_values(tokens) else self._only(tokens)
            rows = part["forecasts"]
            rows = [row for row in rows if days is None or row["horizon_days"] == days]
            actual = {direction(last, row["value"], part) for row in rows}
        if actual != {meaning}:
            said = ", ".join(sorted(str(one) for one in actual))
            self._refuse(token, f"the document says {said}")

    def _only(self, tokens: list[Token]) -> float | None:
        times = [one for one in tokens if one.kind == "horizon"]
        return self._horizon_of(times[0].value) if times else None

    def _crossing(self, token: Token, meaning: str, name: str) -> None:
        """``falling below`` a line: the side must be the line's."""
        line = self.facts.risks.get(name, {})
        if line.get("kind") != "line" or meaning in ("worse", "better", SAME):
            return
        side = RISING if line["side"] == "at_or_above" else FALLING
        if meaning != side:
            self._refuse(token, f"the line '{name}' lies on the other side")


_COUNTED = frozenset(
    {"patients", "patient", "measurements", "measurement", "values", "visits", "errors",
     "neighbours", "neighbors"}
)  # fmt: skip
_LEVEL_WORDS = frozenset({"interval", "range", "band", "intervals", "prediction", "confidence"})
_RISK_WORDS = frozenset({"risk", "risks", "probability", "chance", "likelihood", "odds"})
_SIMILAR_WORDS = frozenset({"similar", "neighbours", "neighbors", "comparable"})
_LINE_WORDS = frozenset({"below", "above", "under", "line", "threshold", "<", ">", ">=", "≥"})
_PAST_WORDS = frozenset({"from", "last", "latest", "currently", "now", "today", "measured", "was"})
_SO_FAR = frozenset({"has", "have", "been", "was", "were", "had", "past", "far"})


def _before(tokens: list[Token], index: int) -> list[str]:
    """The few words before a token, back to the number before it."""
    words: list[str] = []
    for token in reversed(tokens[max(0, index - _AHEAD) : index]):
        if token.kind in ("number", "range", "horizon"):
            break
        words.append(token.text.lower())
    return words[::-1]


def _has_values(tokens: list[Token]) -> bool:
    return any(token.kind in ("number", "range") for token in tokens)


def _is(token: Token, value: float | None) -> bool:
    """Whether the number is the value, rounded to its own digits."""
    if value is None:
        return False
    if token.decimals > 6:
        is_same = abs(token.value - value) <= 1e-6 * abs(value)
    else:
        is_same = f"{token.value:.{token.decimals}f}" == f"{value:.{token.decimals}f}"
    # Rounding must leave two digits, or the value's own.
    is_coarse = token.decimals == 0 and 0 < abs(value) < 10 and value != round(value)
    return is_same and not (is_coarse and token.unit != "%")


def _equal(token: Token, value: float | None, what: str) -> str:
    if value is None:
        return f"the document does not have {what}"
    return "" if _is(token, value) else f"{what} is {value:g}"

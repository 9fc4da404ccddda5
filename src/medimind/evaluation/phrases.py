"""Normalised words of a text, and whether a phrase is asserted in it.

Used where an open question's short gold answer is looked for in an answer, and where an option's
text is compared with what a model wrote.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from medimind.evaluation.abbreviations import groups

_ARTICLES = frozenset({"a", "an", "the"})
_GREEK = {
    "α": "alpha",
    "β": "beta",
    "γ": "gamma",
    "δ": "delta",
    "ε": "epsilon",
    "κ": "kappa",
    "λ": "lambda",
    "μ": "mu",
    "ω": "omega",
}
# UTF-8 punctuation read as Windows-1251 or Windows-1252, as in published copies of MedQA.
_BROKEN = {
    character.encode().decode(code_page): character
    for character in "\u2018\u2019\u2013\u2014\u00b0"
    for code_page in ("cp1251", "cp1252")
    if not (code_page == "cp1251" and character == "\u2018")  # a byte that it does not define
}
# CJK characters are words of their own, because nothing separates words there.
_WORD = re.compile(
    r"[\u3040-\u30ff\u3400-\u9fff]|\d+(?:\.\d+)?|[^\W\d_\u3040-\u30ff\u3400-\u9fff]+"
)
_SENTENCE_END = re.compile(r"[.!?;]\s+|[\n。！？；]+")
_PARENTHESES = re.compile(r"\(([^()]*)\)")

_NEGATIONS_BEFORE = (
    "not",
    "no",
    "without",
    "unlikely",
    "excludes",
    "excluded",
    "exclude",
    "excluding",
    "rather than",
    "instead of",
    "less likely",
    "ruled out",
    "rule out",
    "rules out",
    "ruling out",
    "as opposed to",
    "unlike",
    "never",
    "neither",
    "nor",
    "argues against",
    "against",
    "isn t",
    "wasn t",
    "aren t",
    "don t",
    "doesn t",
    "didn t",
)
_NEGATIONS_AFTER = (
    "is not",
    "are not",
    "was not",
    "isn t",
    "is unlikely",
    "is less likely",
    "less likely",
    "unlikely",
    "is ruled out",
    "was ruled out",
    "ruled out",
    "can be ruled out",
    "is excluded",
    "excluded",
    "would not",
    "does not",
    "doesn t",
    "can be excluded",
)
_REACH = 4
# Words that end the reach of a negation before the phrase: "not X but Y" asserts Y.
_TURNS = frozenset({"but", "rather", "instead", "however", "therefore", "so"})


@dataclass(frozen=True, slots=True)
class PhraseMatch:
    """Where a phrase was looked for.

    Attributes:
        asserted: It occurs at least once without a negation beside it.
        occurrences: How often it occurs.
        negated: How many of them stand beside a negation.
    """

    asserted: bool
    occurrences: int
    negated: int


def words(text: str) -> list[str]:
    """Words without case, punctuation, articles, accents, possessives and regular plural endings.

    Unicode is brought to NFKC first, apostrophes that were decoded as the wrong code page are put
    right, and Greek letters are spelt out. ``Dressler's`` and
    ``Dressler`` become the same word, and so do ``seizures`` and ``seizure``; ``emboli`` and
    ``embolus`` do not.
    """
    for broken, whole in _BROKEN.items():
        text = text.replace(broken, whole)
    text = unicodedata.normalize("NFKC", text).casefold()
    text = re.sub(r"['’ʼ`]s\b", "", text)
    for letter, name in _GREEK.items():
        text = text.replace(letter, f" {name} ")
    text = unicodedata.normalize("NFKD", text)
    text = "".join(character for character in text if not unicodedata.combining(character))
    return [_singular(word) for word in _WORD.findall(text) if word not in _ARTICLES]


def _singular(word: str) -> str:
    """The word without a regular English plural ending; the same rule falls on both sides."""
    if len(word) <= 3 or not word.endswith("s") or word.endswith(("ss", "us", "is")):
        return word
    if word.endswith("ies") and len(word) > 4:
        return word[:-3] + "y"
    return word[:-1]


def same_words(one: str, other: str) -> bool:
    """Whether two texts are equal after normalisation, and not empty."""
    left = words(one)
    return bool(left) and left == words(other)


def starts_with_words(text: str, start: str) -> bool:
    """Whether a text begins with another one, both normalised."""
    beginning = words(start)
    return bool(beginning) and words(text)[: len(beginning)] == beginning


def find_phrase(text: str, phrase: str, *, aliases: Sequence[str] = ()) -> PhraseMatch:
    """Whether ``phrase`` or an alias occurs as whole words in ``text`` and is asserted there.

    An occurrence does not count if, in its own sentence, a negation such as *not*, *rather than*,
    *rule out* or *unlikely* stands at most four words before it with no *but* between, or one such
    as *is unlikely* or *was ruled out* follows it at once. This is cautious, not a reading of the
    text: an answer that lists several diagnoses still asserts each of them.
    """
    wanted = _unique([form for one in (phrase, *aliases) for form in _forms(one)])
    occurrences = negated = 0
    for sentence in _SENTENCE_END.split(text):
        sentence_words = words(sentence)
        taken: set[int] = set()
        for form in sorted(wanted, key=len, reverse=True):
            for start in _positions(sentence_words, form):
                span = set(range(start, start + len(form)))
                if span & taken:
                    continue
                taken |= span
                occurrences += 1
                negated += _is_negated(sentence_words, start, start + len(form))
    return PhraseMatch(occurrences > negated, occurrences, negated)


def _forms(phrase: str) -> list[list[str]]:
    """A gold answer as word lists: itself, without its parentheses, and an acronym in them."""
    forms = [words(phrase)]
    for inside in _PARENTHESES.findall(phrase):
        outside = words(_PARENTHESES.sub(" ", phrase))
        forms.append(outside)
        inner = inside.strip()
        initials = "".join(word[0] for word in outside)
        if inner.isalpha() and inner.isupper() and inner.casefold() == initials:
            forms.append(words(inner))
    named = [form for form in forms if form]
    return named + [
        other for group in _groups() if any(f in group for f in named) for other in group
    ]


@cache
def _groups() -> tuple[tuple[list[str], ...], ...]:
    return tuple(tuple(words(name) for name in group) for group in groups())


def _unique(forms: Sequence[list[str]]) -> list[list[str]]:
    return [form for index, form in enumerate(forms) if form not in forms[:index]]


def _positions(haystack: Sequence[str], needle: Sequence[str]) -> list[int]:
    width = len(needle)
    return [
        start
        for start in range(len(haystack) - width + 1)
        if list(haystack[start : start + width]) == list(needle)
    ]


def _is_negated(sentence: Sequence[str], start: int, end: int) -> bool:
    before = list(sentence[max(0, start - _REACH) : start])
    for index in reversed(range(len(before))):
        # "rather than X" and "instead of X" are negations themselves, not turns.
        joined = " ".join(before[index : index + 2])
        if before[index] in _TURNS and joined not in ("rather than", "instead of"):
            before = before[index + 1 :]
            break
    if before[-1:] == ["non"]:  # non-Hodgkin lymphoma is another disease
        return True
    padded_before = f" {' '.join(before)} "
    if any(f" {negation} " in padded_before for negation in _BEFORE):
        return True
    after = f"{' '.join(sentence[end : end + 4])} "
    return any(after.startswith(f"{negation} ") for negation in _AFTER)


_BEFORE = tuple(" ".join(words(negation)) for negation in _NEGATIONS_BEFORE)
_AFTER = tuple(" ".join(words(negation)) for negation in _NEGATIONS_AFTER)

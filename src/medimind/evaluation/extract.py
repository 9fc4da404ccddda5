"""The answer of an output, by one strict rule; never a guess.

The rule ``answer-line`` reads the text after the thinking ended, and there the last line of the
form ``Answer: X``. ``X`` is the letter of an option, alone or followed by its text, or the whole
text of exactly one option. Only where no such line names an option, sentences from it on that begin
``The (correct) answer is X`` are read, if all of them say the same letter; where such a sentence
below the line names another option, the output has given no answer. An output with neither is
*unparsed*, one that reached the token limit is *cut off*, one whose thinking never ended is
*unclosed*: all three count as wrong, and are counted apart.

Open questions have no letter. By the rule ``gold-phrase`` such an answer is right if the short
gold answer is asserted in the text after the thinking (in the last ``Answer:`` line where there is
one).

``first_match`` and ``last_match`` are what other harnesses do: the first or last letter that looks
like an answer, anywhere in the output. They feed the report's sensitivity line, never a verdict.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from medimind.cases.case import OPTION_LETTERS
from medimind.evaluation.phrases import find_phrase, same_words, starts_with_words, words

Status = Literal["parsed", "unparsed", "cut_off", "unclosed"]
STATUSES: tuple[Status, ...] = ("parsed", "unparsed", "cut_off", "unclosed")

CHOICE_RULE = (
    "answer-line: the last line of the form 'Answer: X' after the thinking ended, where X is the "
    "letter of an option (alone or followed by its text) or the whole text of exactly one option; "
    "without any such line, the sentences 'The answer is X' if they all name the same letter; a "
    "sentence below the line that says so of another option leaves the output without an answer"
)
OPEN_RULE = (
    "gold-phrase: the short gold answer asserted, as whole words, after the thinking ended (in the "
    "last 'Answer:' line where there is one); case, punctuation, articles and plural endings do "
    "not matter, and an occurrence beside a negation does not count; a gold answer that is yes, no "
    "or maybe must be the first word"
)
DENOMINATOR_RULE = (
    "unparsed, cut-off and unclosed outputs count as wrong; the denominator is every case asked"
)

_LINE = re.compile(
    r"(?:the\s+|my\s+)?(?:(?:final|correct|best|right)\s+)*(?:answer|choice)"
    # The request itself, said again: "Answer with ONLY the letter (A, B, C, or D): B".
    r"(?:\s+with\s+(?:only\s+)?the\s+(?:letter|option)\b[^:=]{0,60})?"
    r"(?P<sign>\s*(?:is\s*)?[:=]|\s+is\s+)(?P<rest>.*)",
    re.IGNORECASE | re.DOTALL,
)
_SENTENCE = re.compile(
    r"(?:^|[.!?]\s+)"
    r"(?:(?i:therefore|thus|hence|so|consequently|in\s+conclusion|overall"
    r"|wait|no|sorry|actually|however|but|correction)\s*[,:—-]?\s*)*"
    r"(?i:the|my)\s+(?i:(?:(?:final|correct|best|right)\s+)*(?:answer|choice)"
    r"|(?:correct|best|right)\s+option)\s+is\s+(?i:option\s+)?"
    r"[(\[]?(?P<letter>[A-Z])(?:[)\]]|(?=\s*[.,:;]|\s*$))"
)
# Gives no answer, but takes one back: "I'm confident that option C is the right choice."
_PREFERRED = re.compile(
    r"\b(?i:option)\s+[(\[]?(?P<letter>[A-Z])[)\]]?\s+is\s+(?:clearly\s+)?the\s+"
    r"(?:correct|right|best|most\s+\w+)\s+(?:answer|choice|option)\b"
)
_POLAR = ("yes", "no", "maybe")
_MARKUP = re.compile(r"\*\*|__|`|\$")
_LEAD = re.compile(r"^[\s#>*•-]+")
_BOXED = re.compile(r"\\(?:boxed|text|mathrm|textbf)\s*\{([^{}]*)\}")
_LETTER_ALONE = re.compile(
    r"(?:option\s+)?[(\[<{]?\s*([A-Za-z])\s*[)\]>}]?[\s.,;:!]*", re.IGNORECASE
)
_LETTER_MARKED = re.compile(
    r"(?:option\s+)?(?:[(\[]\s*([A-Z])\s*[)\]]\s*[.:,–—-]?|([A-Z])\s*(?:[).:,–—-]|(?=\()))\s*"
    r"(?P<text>\S.*)",
    re.DOTALL,
)
_LETTER_SMALL = re.compile(r"\(?([a-z])[).:]\s*(?P<text>\S.*)", re.DOTALL)
_LETTER_BARE = re.compile(r"(?:option\s+)?([A-Z])\s+(?P<text>\S.*)", re.DOTALL)
_SEVERAL = re.compile(
    r"(?:or|and|and/or|/|&)\b|[(\[]?[A-Z][)\].]?(?:\s*[,/&]|\s+(?:or|and)\b|\s*$)"
)
_LOOSE = re.compile(
    r"(?i:\b(?:answer|option|choice)\b(?:\s+(?:is|was|would\s+be|should\s+be))?)\W{0,6}([A-Z])\b"
    r"|^\W{0,4}([A-Z])\s*[).:]"
    r"|\\boxed\{\W*(?:\\text\{)?\W*([A-Z])\b",
    re.MULTILINE,
)


@dataclass(frozen=True, slots=True)
class AnswerLine:
    """What the last answer line says: ``line`` as written, ``said`` after its colon."""

    line: str
    said: str


def find_answer_line(answer: str) -> AnswerLine | None:
    """The last line of the form ``Answer: X``; ``X`` may stand on the line below."""
    lines = [_bare(line) for line in answer.splitlines()]
    lines = [line for line in lines if line]
    for index in reversed(range(len(lines))):
        match = _LINE.fullmatch(lines[index])
        if match is None or ("=" not in match["sign"] and ":" not in match["sign"]):
            continue
        if said := _said(match, lines, index):
            return AnswerLine(lines[index], said)
    return None


def extract_choice(answer: str, *, options: Sequence[str]) -> int | None:
    """Index of the option that the answer part chooses; ``None`` where the rule finds none.

    A sentence ``The correct answer is C. Sepsis`` on a line of its own is read like an answer
    line, if all of the line is the choice. Two letters in the line, a letter that contradicts the
    text beside it, or a letter that no option has, give ``None``.

    Args:
        answer: The text after the thinking, and nothing before.
        options: Texts of the options, in the order of their letters.
    """
    lines = [line for line in map(_bare, answer.splitlines()) if line]
    for index in reversed(range(len(lines))):
        match = _LINE.fullmatch(lines[index])
        if match is None:
            continue
        has_sign = ":" in match["sign"] or "=" in match["sign"]
        said = _said(match, lines, index)
        if nested := _LINE.fullmatch(said):  # "Answer: The correct answer is C."
            said = nested["rest"].strip()
        choice = read_choice(said, options=options)
        if choice is not None and has_sign:
            return None if _is_taken_back(choice, lines[index + 1 :], options) else choice
        if choice is not None and len(_SENTENCE.findall(lines[index])) < 2:
            # A sentence among others, which must agree wherever they stand.
            is_alone = _sentences(lines[:index], options) <= {choice}
            is_kept = is_alone and not _is_taken_back(choice, lines[index + 1 :], options)
            return choice if is_kept else None
        # Without a colon and not a choice it is prose: "The answer is clear from the ECG."
        if has_sign and said:
            return _declared(lines[index:], options)
    return _declared(lines, options)


def _is_taken_back(choice: int, below: Sequence[str], options: Sequence[str]) -> bool:
    """Whether a sentence below an answer line gives another answer: then there is none."""
    preferred = {
        _index(match["letter"], len(options))
        for line in below
        for match in _PREFERRED.finditer(line)
    }
    return not (_sentences(below, options) | preferred) <= {choice}


def _declared(lines: Sequence[str], options: Sequence[str]) -> int | None:
    """The letter of all sentences 'The answer is X'; none where they disagree or name several."""
    found = _sentences(lines, options)
    return found.pop() if len(found) == 1 else None


def _sentences(lines: Sequence[str], options: Sequence[str]) -> set[int | None]:
    """What the sentences 'The answer is X' name; ``None`` for one that names several options."""
    found: set[int | None] = set()
    for line in lines:
        for match in _SENTENCE.finditer(line):
            rest = line[match.end() :].lstrip(" .,:;")
            index = _index(match["letter"], len(options))
            found.add(None if index is None else _unless_contradicted(index, rest, options))
    return found


def read_choice(said: str, *, options: Sequence[str]) -> int | None:
    """Index of the option that a few words name, and nothing but an option."""
    said = said.strip().strip("\"'“”‘’").strip()
    if match := _LETTER_ALONE.fullmatch(said):
        return _index(match[1].upper(), len(options))
    if match := _LETTER_MARKED.fullmatch(said):
        index = _index(match[1] or match[2], len(options))
        return None if index is None else _unless_contradicted(index, match["text"], options)
    if match := _LETTER_SMALL.fullmatch(said):
        index = _index(match[1].upper(), len(options))
        if index is not None:
            return index if starts_with_words(match["text"], options[index]) else None
    bare = _LETTER_BARE.fullmatch(said)
    letter = None if bare is None else _index(bare[1], len(options))
    if bare and letter is not None and starts_with_words(bare["text"], options[letter]):
        return letter
    whole = [i for i, option in enumerate(options) if same_words(said, option)]
    if len(whole) != 1:
        return None
    # "A heparin" is the text of an option with its article, or a letter beside another's text.
    is_article = letter is None or options[whole[0]].strip().startswith(f"{said[0]} ")
    return whole[0] if is_article or letter == whole[0] else None


def _unless_contradicted(index: int, text: str, options: Sequence[str]) -> int | None:
    if _SEVERAL.match(text.strip()) and not starts_with_words(text, options[index]):
        return None
    # The longest option that the text begins with: "Iron" is no contradiction of "Iron deficiency".
    begun = [i for i, option in enumerate(options) if starts_with_words(text, option)]
    named = max(begun, key=lambda i: len(words(options[i])), default=index)
    return index if named == index or same_words(options[named], options[index]) else None


def is_open_answer_right(answer: str, gold: str, *, aliases: Sequence[str] = ()) -> bool:
    """Whether the answer part asserts the short gold answer (rule ``gold-phrase``)."""
    line = find_answer_line(answer)
    text = line.said if line is not None and line.said else answer
    if any(words(gold) == [polar] for polar in _POLAR):
        # "Yes. There is no contraindication." says no, too.
        begun = _LINE.fullmatch(_bare(text))
        if words(text if begun is None else begun["rest"])[:1] == words(gold):
            return True
        return bool(aliases) and find_phrase(text, aliases[0], aliases=aliases[1:]).asserted
    return find_phrase(text, gold, aliases=aliases).asserted


def first_match(output: str, *, num_options: int) -> int | None:
    """The first letter that looks like an answer, thinking included; lenient."""
    found = _loose_matches(output, num_options)
    return found[0] if found else None


def last_match(output: str, *, num_options: int) -> int | None:
    """The last letter that looks like an answer, thinking included; lenient."""
    found = _loose_matches(output, num_options)
    return found[-1] if found else None


def answer_status(*, finish_reason: str, closed: bool, readable: bool) -> Status:
    """Why an output has an answer or has none; a cut-off one has none, whatever it holds."""
    if finish_reason == "length":
        return "cut_off"
    if not closed:
        return "unclosed"
    return "parsed" if readable else "unparsed"


def _said(match: re.Match[str], lines: Sequence[str], index: int) -> str:
    """What stands after the colon, or else on the line below unless that is a new answer line."""
    said = match["rest"].strip()
    below = lines[index + 1] if index + 1 < len(lines) else ""
    return said or ("" if _LINE.fullmatch(below) else below)


def _loose_matches(output: str, num_options: int) -> list[int]:
    letters = (next(filter(None, match.groups())) for match in _LOOSE.finditer(output))
    indices = (_index(letter, num_options) for letter in letters)
    return [index for index in indices if index is not None]


def _bare(line: str) -> str:
    """A line without Markdown and LaTeX around its words."""
    line = unicodedata.normalize("NFKC", line)
    for _ in range(2):
        line = _BOXED.sub(r"\1", line)
    return _LEAD.sub("", _MARKUP.sub("", line)).strip().rstrip("*").strip()


def _index(letter: str, num_options: int) -> int | None:
    index = OPTION_LETTERS.find(letter)
    return index if 0 <= index < num_options else None

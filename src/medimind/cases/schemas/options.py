"""Options of a multiple-choice question, in the shapes that public sets have, and the right one."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Mapping, Sequence
from typing import Any

from medimind.cases.case import OPTION_LETTERS
from medimind.cases.outcome import RowProblem
from medimind.cases.schemas.fields import Fields, clean_text
from medimind.cases.sources.json_values import kind_of

OPTION_COLUMNS = (
    ("opa", "opb", "opc", "opd", "ope"),
    ("A", "B", "C", "D", "E", "F", "G", "H", "I", "J"),
    ("option_a", "option_b", "option_c", "option_d", "option_e"),
    ("ending0", "ending1", "ending2", "ending3", "ending4"),
)
_LETTER_KEYS = ("letter", "label", "key", "id")
_TEXT_KEYS = ("content", "text", "value", "option")
_LABELLED = re.compile(r"\(?([A-Z])[).:]\s*(.+)")
_LETTER_ONLY = re.compile(r"\(?([A-Z])[).:]?")
_WHOLE = re.compile(r"-?\d{1,6}")


def read_options(fields: Fields) -> tuple[str, ...]:
    """The texts of the options in order; empty where the row has none.

    Accepts a list of texts, ``{"A": text}``, ``[{"letter": "A", "content": text}]``,
    ``{"label": [...], "text": [...]}``, lines ``A. text``, any of these as JSON text, and columns
    ``opa`` ..., ``A`` ..., ``option_a`` ... or ``ending0`` ...

    Raises:
        RowProblem: They have another shape, a letter is left out, or one is no text or empty.
    """
    column = fields.column("options")
    value = fields.decoded("options")
    if value is None or value == "":
        column, values = _option_columns(fields)
    else:
        values = _listed(value, column=column)
    texts = tuple(_option_text(text, field=column) for text in values)
    if len(texts) == 1 or len(texts) > len(OPTION_LETTERS):
        raise RowProblem(
            f"holds {len(texts)} options", field=column, fix="Give between 2 and 26 options"
        )
    if not all(texts):
        raise RowProblem("holds an empty option", field=column, fix="Fill it in or remove it")
    return texts


def has_option_columns(names: Sequence[str]) -> bool:
    """Whether the columns of a file hold one option each."""
    return any(set(columns[:2]) <= set(names) for columns in OPTION_COLUMNS)


def find_answer(value: Any, *, options: Sequence[str], field: str, first: int | None) -> int:
    """Index of the option that a letter, a number or the option's own text names.

    Args:
        value: What the row holds.
        options: The options' texts.
        field: Column, for the complaint.
        first: What number the first option has in a column of letters or numbers. ``None`` for a
            column that may hold texts: a number then counts from 0, and one that is also the text
            of another option (as in blood group "A") is refused.

    Raises:
        RowProblem: It names no option, or two different ones.
    """
    value = _single(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise RowProblem(
            f"is {kind_of(value)} where the right option's letter, number or text is expected",
            field=field,
            fix="Name one option",
        )
    by_key, by_text = _by_key(value, options, first=first or 0), _by_text(value, options)
    if first is not None and by_key is not None:
        by_text = None
    if by_key is not None and by_text is not None and by_key != by_text:
        raise RowProblem(
            "names one option by its letter or number and another by its text",
            field=field,
            fix="Map the column as answer_key in columns, if it holds letters or numbers",
        )
    found = by_text if by_key is None else by_key
    if found is None:
        raise RowProblem(
            f"names none of the {len(options)} options",
            field=field,
            fix=f"Give a letter from A to {OPTION_LETTERS[len(options) - 1]}, or the option's text",
        )
    return found


def agrees(value: Any, index: int, *, options: Sequence[str]) -> bool:
    """Whether an answer names the option at ``index``, or names no other."""
    value = _single(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        return True
    named = {_by_key(value, options, first=0), _by_text(value, options)} - {None}
    return not named or index in named


def _single(value: Any) -> Any:
    if isinstance(value, list | tuple) and len(value) == 1:
        value = value[0]
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _by_key(value: int | str, options: Sequence[str], *, first: int) -> int | None:
    index = None
    if isinstance(value, int):
        index = value - first
    else:
        text = value.strip()
        letter = _LETTER_ONLY.fullmatch(text) or _LETTER_ONLY.fullmatch(text.upper())
        if letter:
            index = OPTION_LETTERS.index(letter[1])
        elif _WHOLE.fullmatch(text):
            index = int(text) - first
    return index if index is not None and 0 <= index < len(options) else None


def _by_text(value: int | str, options: Sequence[str]) -> int | None:
    if isinstance(value, int):
        return None
    plain = [_plain(option) for option in options]
    text = value.strip()
    labelled = _LABELLED.fullmatch(text)
    candidates = [_plain(text)]
    if labelled:
        index = OPTION_LETTERS.index(labelled[1])
        if index < len(plain) and plain[index] == _plain(labelled[2]):
            return index
        candidates.append(_plain(labelled[2]))
    for candidate in candidates:
        if plain.count(candidate) == 1:
            return plain.index(candidate)
    return None


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().rstrip(". ").split())


def _option_text(value: Any, *, field: str) -> str:
    if isinstance(value, int | float) and not isinstance(value, bool):
        return str(value)
    return clean_text(value, field=field)


def _option_columns(fields: Fields) -> tuple[str, list[Any]]:
    for columns in OPTION_COLUMNS:
        values = [fields.row.get(column) for column in columns]
        while values and values[-1] in (None, ""):
            values.pop()
        if values:
            missing = next((i for i, value in enumerate(values) if value in (None, "")), None)
            if missing is not None:
                raise RowProblem("is empty", field=columns[missing], fix="Fill in the option")
            return f"{columns[0]}...{columns[len(values) - 1]}", values
    return "options", []


def _listed(value: Any, *, column: str) -> list[Any]:
    if isinstance(value, Mapping):
        return _from_mapping(value, column=column)
    if isinstance(value, str):
        return _from_lines(value, column=column)
    if isinstance(value, list | tuple):
        if value and all(isinstance(item, Mapping) for item in value):
            return _from_objects(list(value), column=column)
        return _without_labels(list(value))
    raise RowProblem(
        f"is {kind_of(value)} where options are expected", field=column, fix="Give a list of texts"
    )


def _from_mapping(value: Mapping[Any, Any], *, column: str) -> list[Any]:
    texts = value.get("text")
    if isinstance(texts, list) and isinstance(value.get("label"), list):
        return texts
    present = {str(key).strip().upper(): text for key, text in value.items() if text is not None}
    return _in_order(present, column=column)


def _from_objects(items: list[Mapping[Any, Any]], *, column: str) -> list[Any]:
    present: dict[str, Any] = {}
    for item in items:
        letter = next((item[key] for key in _LETTER_KEYS if key in item), None)
        text = next((item[key] for key in _TEXT_KEYS if key in item), None)
        if letter is None or str(letter).strip().upper() in present:
            raise RowProblem(
                "holds an option without a letter of its own",
                field=column,
                fix='Write each as {"letter": "A", "content": "text"}',
            )
        present[str(letter).strip().upper()] = text
    return _in_order(present, column=column)


def _in_order(present: Mapping[str, Any], *, column: str) -> list[Any]:
    for keys in (OPTION_LETTERS, *(tuple(map(str, range(s, s + 26))) for s in (0, 1))):
        wanted = list(keys[: len(present)])
        if set(present) == set(wanted):
            return [present[key] for key in wanted]
    raise RowProblem(
        "has keys that do not run A, B, C, ...", field=column, fix="Name the options A, B, C, ..."
    )


def _from_lines(value: str, *, column: str) -> list[Any]:
    found = [_LABELLED.fullmatch(line.strip()) for line in value.splitlines() if line.strip()]
    letters = [match[1] if match else "" for match in found]
    if len(found) < 2 or letters != list(OPTION_LETTERS[: len(letters)]):
        raise RowProblem(
            "is text that does not read as options",
            field=column,
            fix="Give a list of texts, or a line 'A. text' for each option",
        )
    return [match[2] for match in found if match]


def _without_labels(items: list[Any]) -> list[Any]:
    """['A. x', 'B. y'] is [x, y]; but 'C. difficile' alone keeps its C."""
    matches = [
        _LABELLED.fullmatch(item.strip()) if isinstance(item, str) else None for item in items
    ]
    letters = [match[1] if match else "" for match in matches]
    if letters != list(OPTION_LETTERS[: len(items)]):
        return items
    return [match[2] for match in matches if match]

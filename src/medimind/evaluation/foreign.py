"""Results of other programs as records, so that they are scored by our rule and compared."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medimind.cases.case import OPTION_LETTERS
from medimind.errors import EvaluationError
from medimind.evaluation.records import Record, digest
from medimind.evaluation.score import score
from medimind.prompts.parse import parse_output


@dataclass(frozen=True, slots=True)
class FieldMapping:
    """Where a foreign JSON or JSONL file holds what a record needs.

    Attributes:
        rows: Dotted path to the list of rows, such as ``models.base.results``; empty for a file
            that is a list, or JSONL.
        question: Field of the question.
        output: Field of the generated text.
        gold: Field of the right letter, or of the short gold answer where ``num_options`` is 0.
        id: Field of the case's id; without one a hash of the question is taken.
        options: Field of the options' texts (a list, or letter -> text).
        num_options: Options of a row that does not list them; 0 for open questions.
        finish_reason: Field of ``stop`` or ``length``; without one every output counts as ended.
        declared: Dotted path to the number of cases the file says it asked.
        prefill: Text that the prompt ended in and that belongs to the answer, such as ``Answer:``.
        open_in_prompt: Whether the prompt ended inside the thinking; ``None`` if unknown.
    """

    rows: str = ""
    question: str = "question"
    output: str = "output"
    gold: str = "gold"
    id: str | None = None
    options: str | None = None
    num_options: int = 4
    finish_reason: str | None = None
    declared: str | None = None
    prefill: str = ""
    open_in_prompt: bool | None = None


def read_foreign(
    path: Path, mapping: FieldMapping, *, arm: str
) -> tuple[tuple[Record, ...], int | None]:
    """The file's rows as scored records, and the number of cases it says it asked.

    Raises:
        EvaluationError: If the file cannot be read or a row lacks a field.
    """
    document = _read(path)
    rows = _at(document, mapping.rows, where=path) if mapping.rows else document
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise EvaluationError(
            "the results are not a list of objects",
            where=str(path),
            fix="Name the path to the list in the mapping's 'rows'",
        )
    records = tuple(
        _record(row, mapping, arm=arm, where=f"{path}: row {number}")
        for number, row in enumerate(rows, start=1)
    )
    declared = _at(document, mapping.declared, where=path) if mapping.declared else None
    if declared is not None and (not isinstance(declared, int) or isinstance(declared, bool)):
        raise EvaluationError("the declared number of cases is not a number", where=str(path))
    return records, declared


def _read(path: Path) -> Any:
    try:
        text = path.read_bytes().decode("utf-8-sig")
        if path.suffix == ".jsonl":
            return [json.loads(line) for line in text.splitlines() if line.strip()]
        return json.loads(text)
    except OSError as error:
        reason = error.strerror or str(error)
    except UnicodeDecodeError:
        reason = "it is not UTF-8"
    except (ValueError, RecursionError) as error:
        reason = f"it is not JSON: {error}"
    raise EvaluationError(f"cannot be read ({reason})", where=str(path))


def _at(document: Any, dotted: str, *, where: Path) -> Any:
    value = document
    for key in dotted.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise EvaluationError(f"there is no '{dotted}' in it", where=str(where))
        value = value[key]
    return value


def _record(row: Mapping[str, Any], mapping: FieldMapping, *, arm: str, where: str) -> Record:
    question, output = _text(row, mapping.question, where), _text(row, mapping.output, where)
    gold = _text(row, mapping.gold, where).strip()
    options = _options(row, mapping, where)
    if options and gold.upper() not in OPTION_LETTERS[: len(options)]:
        raise EvaluationError(f"the right answer '{gold}' is no option's letter", where=where)
    full = mapping.prefill + output
    parsed = parse_output(full, open_in_prompt=mapping.open_in_prompt)
    record = Record(
        key=digest([arm, question, output]),
        arm=arm,
        case_id=_text(row, mapping.id, where) if mapping.id else digest(question),
        kind="choice" if options else "open",
        question=question,
        options=options,
        gold=gold.upper() if options else gold,
        output=full,
        answer_part=parsed.answer,
        open_in_prompt=mapping.open_in_prompt,
        finish_reason=_finish(row, mapping, where),
        well_formed=parsed.well_formed,
    )
    return score(record, closed=parsed.closed)


def _finish(row: Mapping[str, Any], mapping: FieldMapping, where: str) -> str:
    return _text(row, mapping.finish_reason, where) if mapping.finish_reason else "stop"


def _options(row: Mapping[str, Any], mapping: FieldMapping, where: str) -> tuple[str, ...]:
    if mapping.options is None:
        return ("",) * mapping.num_options
    value = row.get(mapping.options)
    if isinstance(value, Mapping):
        value = [value[key] for key in sorted(value)]
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise EvaluationError(f"field '{mapping.options}' holds no options", where=where)
    return tuple(map(str, value))


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = row.get(name)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise EvaluationError(f"field '{name}' is missing or no text", where=where)
    return value

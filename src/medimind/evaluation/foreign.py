"""Results of other programs as records, so that they are scored by our rule and compared."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medimind.cases.case import OPTION_LETTERS
from medimind.errors import EvaluationError
from medimind.evaluation.mapping import FieldMapping
from medimind.evaluation.outputs import with_output
from medimind.evaluation.records import Record, digest
from medimind.prompts.parse import parse_output


@dataclass(frozen=True, slots=True)
class ForeignResults:
    """The rows of a foreign file.

    Attributes:
        records: Scored by our rules.
        declared: Cases that the file says it asked; ``None`` where it does not say.
        verdicts: What the file itself made of each record, in their order; empty where the mapping
            names no such field.
        knows_cut_off: Whether the file tells cut-off outputs.
    """

    records: tuple[Record, ...]
    declared: int | None
    verdicts: tuple[bool, ...]
    knows_cut_off: bool


def read_foreign(path: Path, mapping: FieldMapping, *, arm: str) -> ForeignResults:
    """The file's rows as scored records, and what the file says about them.

    Raises:
        EvaluationError: If the file cannot be read or a row lacks a field.
    """
    document = _read(path)
    rows = _at(document, mapping.rows, where=path) if mapping.rows else document
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise EvaluationError(
            "the results are not a list of objects",
            where=str(path),
            fix="Name the path to the list in the mapping's 'rows', or in its 'arms'",
        )
    records = tuple(
        _record(row, mapping, arm=arm, where=f"{path}: row {number}")
        for number, row in enumerate(rows, start=1)
    )
    declared = _at(document, mapping.declared, where=path) if mapping.declared else None
    if declared is not None and (not isinstance(declared, int) or isinstance(declared, bool)):
        raise EvaluationError("the declared number of cases is not a number", where=str(path))
    verdicts = (
        tuple(
            _verdict(row, mapping.verdict, f"{path}: row {number}")
            for number, row in enumerate(rows, start=1)
        )
        if mapping.verdict
        else ()
    )
    return ForeignResults(records, declared, verdicts, mapping.finish_reason is not None)


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
    raise EvaluationError(
        f"cannot be read ({reason})",
        where=str(path),
        fix="Give JSON or JSONL, one object an answer",
    )


def _at(document: Any, dotted: str, *, where: Path) -> Any:
    value = document
    for key in dotted.split("."):
        if not isinstance(value, Mapping) or key not in value:
            raise EvaluationError(
                f"there is no '{dotted}' in it",
                where=str(where),
                fix=f"Correct the mapping's path; what is there: {_names(value)}",
            )
        value = value[key]
    return value


def _names(value: Any) -> str:
    """The keys of an object, for a message."""
    keys = [str(key) for key in value] if isinstance(value, Mapping) else []
    return ", ".join(keys[:8]) or "no object"


def _record(row: Mapping[str, Any], mapping: FieldMapping, *, arm: str, where: str) -> Record:
    question, output = _text(row, mapping.question, where), _text(row, mapping.output, where)
    gold = _text(row, mapping.gold, where).strip()
    options = _options(row, mapping, where)
    if options:
        gold = _gold_letter(gold, options, mapping, where)
    full = mapping.prefill + output
    if mapping.thinking is not None:
        # The file took the output apart; so it is put together again in one form.
        full = f"<think>\n{_text(row, mapping.thinking, where)}\n</think>\n\n{full}"
    parsed = parse_output(full, open_in_prompt=mapping.open_in_prompt)
    record = Record(
        key=digest([arm, question, output]),
        arm=arm,
        case_id=_text(row, mapping.id, where) if mapping.id else digest(question),
        kind="choice" if options else "open",
        question=question,
        options=options,
        gold=gold,
        open_in_prompt=mapping.open_in_prompt,
        benchmark=mapping.benchmark,
        sample=_number(row, mapping.sample, where) if mapping.sample else 0,
        aliases=tuple(mapping.aliases.get(gold, ())),
    )
    record = with_output(
        record,
        full,
        parsed=parsed,
        finish_reason=_finish(row, mapping, where),
        token_ids=None,
        num_tokens=None,
        num_thinking_tokens=None,
        thinking_budget=None,
    )
    # Of thinking that the file keeps apart nobody can tell how the model formed it; and an output
    # without any thinking is no badly formed one.
    is_unknown = mapping.thinking is not None or not (parsed.reasoning or parsed.num_opens)
    return dataclasses.replace(
        record,
        well_formed=None if is_unknown else record.well_formed,
        finish_reason=record.finish_reason if mapping.finish_reason else None,
        num_thinking_tokens=None,
    )


def _gold_letter(gold: str, options: Sequence[str], mapping: FieldMapping, where: str) -> str:
    """The right option's letter: as it stands there, by its number, or by its whole text."""
    letters = OPTION_LETTERS[: len(options)]
    if mapping.gold_first is not None and gold.isdecimal():
        index = int(gold) - mapping.gold_first
        if 0 <= index < len(options):
            return letters[index]
    elif len(gold) == 1 and gold.upper() in letters:
        return gold.upper()
    elif gold and options.count(gold) == 1:
        return letters[options.index(gold)]
    raise EvaluationError(
        f"the right answer '{gold[:40]}' is no option's letter",
        where=where,
        fix="Where it is the option's number, say what the first one is called: gold_first: 0",
    )


def _finish(row: Mapping[str, Any], mapping: FieldMapping, where: str) -> str:
    return _text(row, mapping.finish_reason, where) if mapping.finish_reason else "stop"


def _options(row: Mapping[str, Any], mapping: FieldMapping, where: str) -> tuple[str, ...]:
    if mapping.options is None:
        return ("",) * mapping.num_options
    value = _field(row, mapping.options)
    if isinstance(value, Mapping):
        value = [value[key] for key in sorted(value)]
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise EvaluationError(f"field '{mapping.options}' holds no options", where=where)
    return tuple(map(str, value))


def _text(row: Mapping[str, Any], name: str, where: str) -> str:
    value = _field(row, name)
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        value = str(value)
    if not isinstance(value, str):
        raise EvaluationError(f"field '{name}' is missing or no text", where=where)
    return value


def _field(value: Any, name: str) -> Any:
    """What lies at a dotted name; of a list on the way all members, joined if they are texts."""
    if name in (value if isinstance(value, Mapping) else ()):
        return value[name]
    first, _, rest = name.partition(".")
    inner = value.get(first) if isinstance(value, Mapping) else None
    if not rest or inner is None:
        return None
    if isinstance(inner, list):
        members = [_field(member, rest) for member in inner]
        is_text = all(isinstance(member, str) for member in members)
        return " ".join(members) if is_text else None
    return _field(inner, rest)


def _verdict(row: Mapping[str, Any], name: str, where: str) -> bool:
    value = _field(row, name)
    if isinstance(value, str):
        value = {"true": True, "false": False, "1": True, "0": False}.get(value.strip().lower())
    if value not in (True, False):
        raise EvaluationError(f"field '{name}' is neither true nor false", where=where)
    return bool(value)


def _number(row: Mapping[str, Any], name: str, where: str) -> int:
    value = _field(row, name)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise EvaluationError(f"field '{name}' is no number from 0 on", where=where)
    return value

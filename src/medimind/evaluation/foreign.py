"""Results of other programs as records, so that they are scored by our rule and compared."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medimind.cases.case import OPTION_LETTERS
from medimind.errors import EvaluationError
from medimind.evaluation.foreign_rows import (
    at,
    field_of,
    raw_field_of,
    read_document,
    text_of,
)
from medimind.evaluation.mapping import FieldMapping
from medimind.evaluation.outputs import with_output
from medimind.evaluation.records import Record, digest
from medimind.prompts.parse import parse_output

# What programs and servers write for an output that reached its token limit.
_CUT_OFF = frozenset(
    {"length", "max_tokens", "max_new_tokens", "max_length", "max_output_tokens", "model_length"}
)
# A letter as it may stand in a file: A, a, (A), A) or A.
_LETTER = re.compile(r"\(?([A-Za-z])[).:]?")


@dataclass(frozen=True, slots=True)
class ForeignResults:
    """The rows of a foreign file.

    Attributes:
        records: Scored by our rules.
        declared: Cases that the file says it asked; ``None`` where it does not say.
        verdicts: What the file itself made of each record, in their order; empty where the mapping
            names no such field.
        knows_cut_off: Whether the file tells cut-off outputs.
        num_empty: Rows whose output is empty or missing.
    """

    records: tuple[Record, ...]
    declared: int | None
    verdicts: tuple[bool, ...]
    knows_cut_off: bool
    num_empty: int = 0


def read_foreign(path: Path, mapping: FieldMapping, *, arm: str) -> ForeignResults:
    """The file's rows as scored records, and what the file says about them.

    Raises:
        DataError: If a table cannot be read.
        EvaluationError: If another file cannot be read, or a row lacks a field.
    """
    document = read_document(path)
    rows = at(document, mapping.rows, where=path) if mapping.rows else document
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise EvaluationError(
            "the results are not a list of objects",
            where=str(path),
            fix="Name the path to the list in the mapping's 'rows', or in its 'arms'",
        )
    outputs = _outputs(rows, mapping, path)
    none = [""] * len(rows)
    thoughts = _texts(rows, mapping.thinking, path) if mapping.thinking else none
    reasons = _texts(rows, mapping.finish_reason, path) if mapping.finish_reason else none
    records = tuple(
        _record(row, texts, mapping, arm=arm, where=f"{path}: row {number}")
        for number, (row, *texts) in enumerate(
            zip(rows, outputs, thoughts, reasons, strict=True), start=1
        )
    )
    declared = at(document, mapping.declared, where=path) if mapping.declared else None
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
    return ForeignResults(
        records,
        declared,
        verdicts,
        mapping.finish_reason is not None,
        sum(output is not None and not output.strip() for output in outputs),
    )


def _outputs(
    rows: Sequence[Mapping[str, Any]], mapping: FieldMapping, path: Path
) -> list[str | None]:
    """What each row holds; ``None`` for all where the file has option likelihoods alone."""
    has_any = any(field_of(row, mapping.output) is not None for row in rows)
    if not has_any and mapping.option_logprobs is not None:
        return [None] * len(rows)
    return [*_texts(rows, mapping.output, path)]


def _texts(rows: Sequence[Mapping[str, Any]], name: str, path: Path) -> list[str]:
    """A field of all rows as text: empty where a row lacks what others have."""
    has_any = any(field_of(row, name) is not None for row in rows)
    return [
        ""
        if has_any and field_of(row, name) is None
        else text_of(row, name, f"{path}: row {number}")
        for number, row in enumerate(rows, start=1)
    ]


def _record(
    row: Mapping[str, Any],
    texts: Sequence[str | None],
    mapping: FieldMapping,
    *,
    arm: str,
    where: str,
) -> Record:
    output, thought, reason = texts
    question = text_of(row, mapping.question, where)
    gold = text_of(row, mapping.gold, where).strip()
    options = _options(row, mapping, where)
    if options:
        gold = _gold_letter(gold, options, mapping, where)
    record = Record(
        key=digest([arm, question, output]),
        arm=arm,
        case_id=text_of(row, mapping.id, where) if mapping.id else digest(question),
        kind="choice" if options else "open",
        question=question,
        options=options,
        gold=gold,
        open_in_prompt=mapping.open_in_prompt,
        benchmark=mapping.benchmark,
        sample=_number(row, mapping.sample, where) if mapping.sample else 0,
        aliases=tuple(mapping.aliases.get(gold, ())),
    )
    if mapping.option_logprobs is not None:
        record = _with_likelihoods(record, row, mapping.option_logprobs, where)
    if output is None:
        return record
    is_cut_off = (reason or "").strip().lower() in _CUT_OFF
    finish = "length" if is_cut_off else "stop"
    return _with_output(record, output, thought or "", mapping, finish=finish)


def _with_output(
    record: Record, output: str, thought: str, mapping: FieldMapping, *, finish: str
) -> Record:
    full = mapping.prefill + output
    if thought.strip():
        # The file took the output apart; so it is put together again in one form.
        full = f"<think>\n{thought}\n</think>\n\n{full}"
    parsed = parse_output(full, open_in_prompt=mapping.open_in_prompt)
    record = with_output(
        record,
        full,
        parsed=parsed,
        finish_reason=finish,
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


def _with_likelihoods(record: Record, row: Mapping[str, Any], name: str, where: str) -> Record:
    """The record with its options' log-probabilities: numbers, or pairs that begin with one."""
    value = raw_field_of(row, name)
    if isinstance(value, Mapping):
        value = [value[key] for key in _in_order(value)]
    logprobs = [_logprob(one) for one in value] if isinstance(value, list) else []
    found = [one for one in logprobs if one is not None]
    if not found or len(found) != len(logprobs) or len(found) != len(record.options):
        raise EvaluationError(
            f"field '{name}' has no log-probability for each of the {len(record.options)} options",
            where=where,
        )
    likeliest = OPTION_LETTERS[max(range(len(found)), key=found.__getitem__)]
    return dataclasses.replace(
        record,
        option_logprobs=tuple(found),
        likeliest=likeliest,
        likeliest_correct=likeliest == record.gold,
    )


def _logprob(value: Any) -> float | None:
    """A finite number, or the first of a pair, as lm-evaluation-harness writes it, in text."""
    while isinstance(value, list):
        value = value[0] if value else None
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _gold_letter(gold: str, options: Sequence[str], mapping: FieldMapping, where: str) -> str:
    """The right option's letter: as it stands there, by its number, or by its whole text."""
    letters = OPTION_LETTERS[: len(options)]
    letter = _LETTER.fullmatch(gold)
    if mapping.gold_first is not None and gold.isdecimal():
        index = int(gold) - mapping.gold_first
        if 0 <= index < len(options):
            return letters[index]
    elif letter is not None and letter[1].upper() in letters:
        return letter[1].upper()
    elif gold and options.count(gold) == 1:
        return letters[options.index(gold)]
    first = mapping.gold_first
    raise EvaluationError(
        f"the right answer '{gold[:40]}' is none of the {len(options)} options' letters",
        where=where,
        fix="Where it is the option's number, say what the first one is called: gold_first: 0"
        if first is None
        else f"The mapping counts options from {first}; if the file counts from {1 - first}, "
        f"write gold_first: {1 - first}",
    )


def _options(row: Mapping[str, Any], mapping: FieldMapping, where: str) -> tuple[str, ...]:
    if mapping.options is None:
        return ("",) * mapping.num_options
    if isinstance(mapping.options, list):  # a column each, as in tables
        texts = [str(field_of(row, name) or "").strip() for name in mapping.options]
        while texts and not texts[-1]:
            del texts[-1]
        if not texts:
            raise EvaluationError(
                f"the fields {', '.join(mapping.options)} hold no options", where=where
            )
        return tuple(texts)
    value = raw_field_of(row, mapping.options)
    if isinstance(value, Mapping):
        value = [value[key] for key in _in_order(value)]
    if not isinstance(value, Sequence) or isinstance(value, str):
        raise EvaluationError(f"field '{mapping.options}' holds no options", where=where)
    return tuple(str(one).strip() for one in value)


def _in_order(options: Mapping[str, Any]) -> list[str]:
    """The keys of options in their order: letters by the alphabet, numbers by their size."""
    are_numbers = all(str(key).isdecimal() for key in options)
    return sorted(options, key=(lambda key: int(key)) if are_numbers else str)


def _verdict(row: Mapping[str, Any], name: str, where: str) -> bool:
    value = field_of(row, name)
    if isinstance(value, str):
        value = {"true": True, "false": False, "1": True, "0": False}.get(value.strip().lower())
    if value not in (True, False):
        raise EvaluationError(f"field '{name}' is neither true nor false", where=where)
    return bool(value)


def _number(row: Mapping[str, Any], name: str, where: str) -> int:
    value = field_of(row, name)
    if isinstance(value, str) and value.strip().isdecimal():
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise EvaluationError(f"field '{name}' is no number from 0 on", where=where)
    return value

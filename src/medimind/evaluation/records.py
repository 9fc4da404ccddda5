"""One record per arm and case, in JSONL files that can be resumed, read back and scored again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from medimind.cases.case import OPTION_LETTERS
from medimind.errors import EvaluationError
from medimind.evaluation.extract import STATUSES

Kind = Literal["choice", "open", "none"]
_MOST = 1e12  # no figure of a record is near it, and sums of such do not overflow
HELD_OUT = "held-out cases"
"""What records without a benchmark are called in a run, which held them out."""


@dataclass(frozen=True, slots=True)
class Record:
    """What one arm did with one case; a part that was not measured is ``None``.

    Attributes:
        key: Digest of everything the record depends on: model, adapter, prompt, decoding, gold.
        arm: Name of the arm.
        case_id: The case.
        kind: ``choice`` where options are shown, ``open`` where only a short gold answer is known,
            ``none`` where there is nothing to score the answer by.
        question: The question, without the options.
        options: Texts of the options.
        gold: Letter of the right option, or the short gold answer.
        loss_reasoning: Mean negative log-likelihood (nats a token) of the gold reasoning.
        loss_response: The same of the gold response.
        loss: The same of both together.
        num_reasoning_targets: Tokens behind ``loss_reasoning``.
        num_response_targets: Tokens behind ``loss_response``.
        prompt: Text of the prompt, control tokens included.
        output: Text that was generated; ``None`` where the case was not asked.
        answer_part: The output after its thinking; what the strict rule reads.
        open_in_prompt: Whether the prompt ended inside the thinking.
        finish_reason: ``stop`` or ``length``.
        num_tokens: Tokens of the output.
        num_thinking_tokens: Those of them before the thinking ended.
        well_formed: Whether thinking and answer have exactly the form the template asks for, and
            the model ended the thinking by itself.
        repeated_share: Share of 4-grams of tokens that occurred before in the output.
        loop_tokens: Tokens of the loop the output ends in; 0 for none.
        status: ``parsed``, ``unparsed``, ``cut_off`` or ``unclosed``.
        extracted: The letter chosen; for open questions what was read is the answer part.
        correct: Whether the answer is right by the strict rule; not parsed is wrong.
        correct_first_match: By the first letter anywhere; for open ones, gold in all of the output.
        correct_last_match: By the last letter anywhere; for open ones as above.
        correct_cut_off_read: By the strict rule, but reading cut-off outputs too.
        option_logprobs: Sum of the log-probabilities of each option's letter.
        likeliest: The letter with the highest of them.
        likeliest_correct: Whether that is right.
        asked_likelihood: Wording of the prompt before the options: ``chat`` or ``harness``;
            ``None`` where nothing tells.
        benchmark: Name of the benchmark the case is from; ``None`` for held-out cases.
        sample: Number of this output among several of the same case, from 0; files of benchmarks
            hold a case once per sample, and option likelihoods only in sample 0.
        aliases: Other names of the short gold answer.
        markers: What opens and closes the thinking, where it is neither ``<think>`` tags nor
            HuatuoGPT-o1's headings.
        num_prompt_tokens: Tokens of the prompt.
        seconds: From the request to its last token.
    """

    key: str
    arm: str
    case_id: str
    kind: Kind
    question: str
    options: tuple[str, ...] = ()
    gold: str | None = None
    loss_reasoning: float | None = None
    loss_response: float | None = None
    loss: float | None = None
    num_reasoning_targets: int | None = None
    num_response_targets: int | None = None
    prompt: str | None = None
    output: str | None = None
    answer_part: str | None = None
    open_in_prompt: bool | None = None
    finish_reason: str | None = None
    num_tokens: int | None = None
    num_thinking_tokens: int | None = None
    well_formed: bool | None = None
    repeated_share: float | None = None
    loop_tokens: int | None = None
    status: str | None = None
    extracted: str | None = None
    correct: bool | None = None
    correct_first_match: bool | None = None
    correct_last_match: bool | None = None
    correct_cut_off_read: bool | None = None
    option_logprobs: tuple[float, ...] | None = None
    likeliest: str | None = None
    likeliest_correct: bool | None = None
    asked_likelihood: str | None = None
    benchmark: str | None = None
    sample: int = 0
    aliases: tuple[str, ...] = ()
    markers: tuple[str, ...] = ()
    num_prompt_tokens: int | None = None
    seconds: float | None = None

    @property
    def is_asked(self) -> bool:
        """Whether an answer was generated."""
        return self.output is not None

    def to_json(self) -> str:
        """One line of JSON without its line break."""
        return json.dumps(dataclasses.asdict(self), ensure_ascii=False, allow_nan=False)


_HINTS = get_type_hints(Record)
_FIELDS = {field.name: field for field in dataclasses.fields(Record)}


def unwritable(what: str, error: OSError, *, where: Path) -> EvaluationError:
    """The error for a disk that does not take what was measured."""
    return EvaluationError(
        f"{what} cannot be written ({error.strerror or error})",
        where=str(where),
        fix="Make room or mend the folder, and run the same again: no answer is asked for twice",
    )


def record_from(row: Mapping[str, Any], *, where: str) -> Record:
    """A record from a row of JSON; every field is checked, unknown fields are left out.

    Raises:
        EvaluationError: If a field is missing, of the wrong type, or cannot be.
    """
    values: dict[str, Any] = {}
    for name, field in _FIELDS.items():
        if name not in row:
            if field.default is dataclasses.MISSING:
                raise EvaluationError(f"field '{name}' is missing", where=where)
            continue
        value = tuple(row[name]) if isinstance(row[name], list) else row[name]
        if not _is_a(value, _HINTS[name]):
            raise EvaluationError(f"field '{name}' is of the wrong type", where=where)
        values[name] = value
    record = Record(**values)
    if record.status is not None and record.status not in STATUSES:
        raise EvaluationError(f"unknown status '{record.status}'", where=where)
    return _with_letters(record, where) if record.kind == "choice" else record


def _with_letters(record: Record, where: str) -> Record:
    """A choice whose letters, upper case, are those of its options."""
    letters = OPTION_LETTERS[: len(record.options)]
    found = {}
    for name in ("gold", "extracted", "likeliest"):
        value = getattr(record, name)
        found[name] = None if value is None else value.upper()
        if value is not None and (len(value) != 1 or found[name] not in letters):
            raise EvaluationError(
                f"field '{name}' is '{value[:40]}', and the options' letters are "
                f"{', '.join(letters) or 'none'}",
                where=where,
            )
    if record.option_logprobs is not None and len(record.option_logprobs) != len(letters):
        raise EvaluationError("field 'option_logprobs' has not one for each option", where=where)
    return dataclasses.replace(record, **found)


def _is_a(value: Any, hint: Any) -> bool:
    origin = get_origin(hint)
    if origin is UnionType:
        return any(_is_a(value, inner) for inner in get_args(hint))
    if origin is Literal:
        return value in get_args(hint)
    if origin is tuple:
        inner = get_args(hint)[0]
        return isinstance(value, tuple) and all(_is_a(item, inner) for item in value)
    if hint is NoneType:
        return value is None
    if hint is float:
        is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
        return is_number and -_MOST <= value <= _MOST  # so NaN is none
    if hint is int:  # all of them are counts
        return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= _MOST
    return isinstance(value, hint)


@dataclass(frozen=True, slots=True)
class ReadRecords:
    """Records of a file, and what could not be read.

    Attributes:
        records: In the file's order.
        damaged: Numbers of the lines that hold no record.
        reason: What is wrong with the first of them, and where it is.
    """

    records: tuple[Record, ...]
    damaged: tuple[int, ...]
    reason: str = ""


def read_records(path: Path) -> ReadRecords:
    """The records of a JSONL file, in its order; damaged lines are left out and counted.

    Raises:
        EvaluationError: If the file cannot be read at all.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise EvaluationError(
            f"cannot be read ({error.strerror or error})",
            where=str(path),
            fix="Name a file of results, such as runs/NAME/evaluation/tuned.jsonl",
        ) from None
    records, damaged, reasons = [], [], []
    for number, line in enumerate(data.removeprefix(b"\xef\xbb\xbf").split(b"\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line.decode("utf-8"))
            if not isinstance(row, dict):
                raise EvaluationError("not a JSON object", where=f"{path}:{number}")
            records.append(record_from(row, where=f"{path}:{number}"))
        except (ValueError, RecursionError, EvaluationError) as error:
            damaged.append(number)
            is_told = isinstance(error, EvaluationError)
            reasons.append(str(error) if is_told else f"{path}:{number}: it is not JSON")
    return ReadRecords(tuple(records), tuple(damaged), next(iter(reasons), "").rstrip("."))


class RecordFile:
    """The records of one arm on disk, complete after each :meth:`append`.

    Opening it keeps the records that are still wanted and drops all others, by writing the file
    anew beside itself and renaming it. What was dropped is told in ``notes``.

    Args:
        path: The JSONL file; made, with its folder, where it is missing.
        wanted: Keys of the records that this evaluation will consist of, in their order.
        keep_others: Leave records that are not wanted in the file, for a later call that wants
            them; only damaged lines are dropped.
    """

    def __init__(self, path: Path, *, wanted: Sequence[str], keep_others: bool = False) -> None:
        self.path = path
        self.notes: list[str] = []
        self._wanted = list(wanted)
        self._keep_others = keep_others
        self._records: dict[str, Record] = {}
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.exists():
            self._take_over(read_records(path))

    def _take_over(self, found: ReadRecords) -> None:
        wanted = set(self._wanted)
        for record in found.records:
            if self._keep_others or record.key in wanted:
                self._records.setdefault(record.key, record)
        others = len(found.records) - len(self._records)
        if found.damaged:
            lines = ", ".join(map(str, found.damaged))
            self.notes.append(
                f"{self.path.name}: damaged line {lines} dropped; its case is asked again"
            )
        if others:
            self.notes.append(
                f"{self.path.name}: {others} records of other settings, cases or weights dropped"
            )
        is_torn = not self.path.read_bytes().endswith(b"\n")
        if found.damaged or others or is_torn:
            self._rewrite(self._records.values())

    @property
    def num_wanted(self) -> int:
        """How many records this evaluation consists of."""
        return len(self._wanted)

    @property
    def missing(self) -> set[str]:
        """Keys that are not recorded yet."""
        return set(self._wanted).difference(self._records)

    def append(self, records: Iterable[Record]) -> None:
        """Add records in one write that has reached the disk when this returns."""
        new = [record for record in records if record.key not in self._records]
        data = "".join(record.to_json() + "\n" for record in new)
        with self.path.open("ab") as file:
            file.write(_bytes(data))
            file.flush()
            os.fsync(file.fileno())
        self._records.update((record.key, record) for record in new)

    def finish(self) -> tuple[Record, ...]:
        """All wanted records in their order; a file without others gets that order too."""
        records = tuple(self._records[key] for key in self._wanted)
        if not self._keep_others and list(self._records) != self._wanted:
            self._rewrite(records)
            self._records = {record.key: record for record in records}
        return records

    def _rewrite(self, records: Iterable[Record]) -> None:
        aside = self.path.with_name(f".{self.path.name}.part")
        with aside.open("wb") as file:
            for record in records:
                file.write(_bytes(record.to_json() + "\n"))
            file.flush()
            os.fsync(file.fileno())
        aside.replace(self.path)


def _bytes(text: str) -> bytes:
    """UTF-8; half of a surrogate pair, which it cannot hold, becomes a question mark."""
    return text.encode("utf-8", errors="replace")


def digest(value: object) -> str:
    """Short hash of a JSON-able value, the same in every process."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:24]

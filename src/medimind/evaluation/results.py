"""Files of results, ours or others', read into one form."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from medimind.errors import EvaluationError
from medimind.evaluation.foreign import ForeignResults, read_foreign
from medimind.evaluation.mapping import FieldMapping
from medimind.evaluation.outputs import rescore
from medimind.evaluation.records import Record, read_records
from medimind.evaluation.wording import count_text

JUDGES = "judges"
"""Folder of judgements beside results."""
SUMMARY = "results.json"
"""File beside the folders of benchmarks, with what the last call counted."""
NATIVE_NAME = "base_native"
"""The base model asked with its own chat template."""
_SHOWN_IDS = 5
_LONG_OUTPUT = 200
_ENDINGS = tuple(".!?…。！？)]}\"'”’*`|:")


@dataclass(frozen=True, slots=True)
class ResultSet:
    """The records of one model.

    Attributes:
        name: How it is called in the comparison.
        records: One a case and sample, of one or several benchmarks.
        declared: Cases that the file says it asked, where it says so.
        notes: What is wrong with the file, or cannot be told from it.
        verdicts: The file's own right or wrong by (case, sample), where it holds such.
        title: What a report calls it; empty takes the name.
    """

    name: str
    records: tuple[Record, ...]
    declared: int | None = None
    notes: tuple[str, ...] = ()
    verdicts: Mapping[tuple[str, int], bool] = field(default_factory=dict)
    title: str = ""

    @property
    def shown(self) -> str:
        """What a report calls it."""
        return self.title or self.name

    @property
    def benchmarks(self) -> tuple[str | None, ...]:
        """The benchmarks that it holds, in their order."""
        return tuple(dict.fromkeys(record.benchmark for record in self.records))

    @property
    def num_cases(self) -> int:
        """Different cases."""
        return len({(record.benchmark, record.case_id) for record in self.records})


def split_native(sets: Sequence[ResultSet]) -> tuple[list[ResultSet], ResultSet | None]:
    """The sets to compare, and a control that the tuned model is held to, too.

    That is the base model as it wants to be asked, where it is not one of two.
    """
    native = next((one for one in sets[1:] if one.name == NATIVE_NAME), None)
    if len(sets) < 3 or native is None:
        return list(sets), None
    return [one for one in sets if one is not native], native


def read_results(
    path: Path, *, name: str | None = None, mapping: FieldMapping | None = None
) -> ResultSet:
    """The results in a file of ours, in a run folder (its tuned arm), or in a foreign file.

    Args:
        path: ``tuned.jsonl``, ``runs/NAME``, or any JSON or JSONL with a mapping.
        name: How it is called; by default the run's folder and the arm.
        mapping: Where a foreign file holds its fields.

    Raises:
        EvaluationError: If there are no results, or a case is there twice.
    """
    file = _file(path)
    name = name or _name(file)
    if mapping is not None:
        foreign = read_foreign(file, mapping, arm=name)
        records = foreign.records
        result = ResultSet(
            name, records, foreign.declared, _foreign_notes(name, foreign), _verdicts(foreign)
        )
    else:
        result = _read_ours(file, name)
    _check(result, file)
    return result


def _read_ours(file: Path, name: str) -> ResultSet:
    """Records as today's rules read them, whatever version wrote them."""
    found = read_records(file)
    if found.damaged and not found.records:
        raise EvaluationError(
            f"none of its {count_text(len(found.damaged), 'line')} is a result; {found.reason}",
            where=str(file),
            fix="For a file of another program give a mapping: --mapping FILE",
        )
    wanted = last_asked(file)
    current = [record for record in found.records if wanted is None or record.key in wanted]
    records = tuple(map(rescore, current))
    changed = sum(
        (old.status, old.extracted, old.correct) != (new.status, new.extracted, new.correct)
        for old, new in zip(current, records, strict=True)
    )
    notes = []
    if found.damaged:
        damaged = count_text(len(found.damaged), "damaged line")
        notes.append(f"{name}: {damaged} left out ({found.reason})")
    if changed:
        notes.append(
            f"{name}: {count_text(changed, 'output')} read otherwise than the file says; compared "
            "is what the rule named below reads"
        )
    return ResultSet(name, records, None, tuple(notes))


def last_asked(file: Path) -> set[str] | None:
    """Keys of what the last call of ``evaluate --benchmark`` counted; ``None`` if nothing tells.

    The files of benchmarks keep what was answered under other settings, for a call that wants it.
    """
    try:
        told = json.loads((file.parent.parent / SUMMARY).read_bytes())
        return {
            key
            for benchmark in told["benchmarks"]
            for arm in benchmark["arms"]
            if (benchmark["name"], arm["summary"]["name"]) == (file.parent.name, file.stem)
            for key in arm["keys"]
        } or None
    except (OSError, ValueError, RecursionError, KeyError, TypeError):
        return None


def read_arms(path: Path, *, mapping: FieldMapping) -> list[ResultSet]:
    """All models of a foreign file, as its mapping names them; one where it names none."""
    if not mapping.arms:
        return [read_results(path, mapping=mapping, name=path.stem)]
    return [read_results(path, name=arm, mapping=mapping.of_arm(arm)) for arm in mapping.arms]


def read_benchmarks(folder: Path) -> list[ResultSet]:
    """All arms below a folder that ``medimind evaluate --benchmark`` wrote: base, tuned, others.

    Raises:
        EvaluationError: If there are no results below it.
    """
    files = _benchmark_files(folder)
    arms: dict[str, list[ResultSet]] = {}
    for file in files:
        arms.setdefault(file.stem, []).append(read_results(file, name=file.stem))
    if not arms:
        raise EvaluationError(
            "no results of benchmarks lie below it",
            where=str(folder),
            fix="Give the folder that medimind evaluate --benchmark wrote",
        )
    # What is held to the base model first is what a report shows largest: the tuned one.
    first = min(arms, key=lambda arm: (arm != "base", not arm.startswith("base"), arm))
    order = sorted(arms, key=lambda arm: (arm != first, arm != "tuned", arm))
    return [
        ResultSet(
            arm,
            tuple(record for one in arms[arm] for record in one.records),
            None,
            tuple(note for one in arms[arm] for note in one.notes),
        )
        for arm in order
    ]


def is_benchmark_folder(path: Path) -> bool:
    """Whether a folder holds results of benchmarks, and is not a run folder."""
    if not path.is_dir() or _own_file(path) is not None:
        return False
    return bool(_benchmark_files(path))


def _benchmark_files(folder: Path) -> list[Path]:
    """Records of each benchmark and arm; judgements that lie beside them are none."""
    return sorted(file for file in folder.glob("*/*.jsonl") if file.parent.name != JUDGES)


def is_ours(path: Path) -> bool:
    """Whether a file holds records of ours, or a folder is a run; read from its first line."""
    if path.is_dir():
        return True
    try:
        with path.open("rb") as file:
            row = json.loads(file.readline())
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(row, dict) and {"key", "arm", "case_id", "kind"} <= set(row)


def some(ids: Sequence[str]) -> str:
    """The first ids, and how many more."""
    more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
    return ", ".join(ids[:_SHOWN_IDS]) + more


def _check(result: ResultSet, file: Path) -> None:
    if not result.records:
        raise EvaluationError(
            "there are no results in it",
            where=str(file),
            fix="Give a file such as runs/NAME/evaluation/tuned.jsonl, or a mapping for a file of "
            "another program, with --mapping",
        )
    counts = Counter((one.benchmark, one.case_id, one.sample) for one in result.records)
    repeated = [case_id for (_, case_id, _), count in counts.items() if count > 1]
    if repeated:
        raise EvaluationError(
            f"{count_text(len(repeated), 'case')} there more than once: {some(repeated)}",
            where=str(file),
            fix="Keep one row for each output. In a mapping, 'id' names the field of the case's id "
            "and 'sample' that of the output's number",
        )


def _foreign_notes(name: str, found: ForeignResults) -> tuple[str, ...]:
    """What the file does not tell, and what its outputs look like."""
    num = len(found.records)
    notes = []
    if found.num_empty:
        notes.append(
            f"{name}: {found.num_empty} of {num} outputs are empty or missing and count as wrong, "
            "whether the model said nothing or the program failed"
        )
    return (*notes, *(_torn_notes(name, found) if not found.knows_cut_off else ()))


def _torn_notes(name: str, found: ForeignResults) -> tuple[str, ...]:
    outputs = [record.answer_part or "" for record in found.records]
    torn = sum(
        len(output) > _LONG_OUTPUT and not output.rstrip().endswith(_ENDINGS) for output in outputs
    )
    if not torn:
        return ()
    return (
        f"{name}: the file does not tell which outputs were cut off; {torn} of {len(outputs)} end "
        "inside a sentence, and are read as if they had ended",
    )


def _verdicts(found: ForeignResults) -> dict[tuple[str, int], bool]:
    if not found.verdicts:
        return {}
    keys = [(record.case_id, record.sample) for record in found.records]
    return dict(zip(keys, found.verdicts, strict=True))


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    own = _own_file(path)
    if own is not None:
        return own
    raise EvaluationError(
        "the folder holds no evaluation",
        where=str(path),
        fix="Give a run folder that was evaluated, or a .jsonl file of results",
    )


def _own_file(folder: Path) -> Path | None:
    candidates = (folder / "evaluation" / "tuned.jsonl", folder / "tuned.jsonl")
    return next((one for one in candidates if one.is_file()), None)


def _name(file: Path) -> str:
    parent = file.parent
    run = parent.parent.name if parent.name == "evaluation" else parent.name
    return f"{run}/{file.stem}" if run else file.stem

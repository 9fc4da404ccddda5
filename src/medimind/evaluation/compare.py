"""Two or more files of results, compared case by case; the first is what the others are held to."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from medimind.errors import EvaluationError
from medimind.evaluation.comparison import Comparison, by_case, compare_records
from medimind.evaluation.evaluation import ArmSummary, jsonable, summarise_arm
from medimind.evaluation.foreign import FieldMapping, read_foreign
from medimind.evaluation.records import Record, read_records
from medimind.evaluation.wording import count_text

_SHOWN_IDS = 5


@dataclass(frozen=True, slots=True)
class ResultSet:
    """The records of one file.

    Attributes:
        name: How it is called in the comparison.
        records: One a case.
        declared: Cases that the file says it asked, where it says so.
        notes: What was wrong with the file.
    """

    name: str
    records: tuple[Record, ...]
    declared: int | None = None
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ResultComparison:
    """All files against the first.

    Attributes:
        arms: Each file by itself, over its own cases.
        comparisons: One for each file but the first.
        warnings: Unequal coverage and damage; to be shown before any figure.
    """

    arms: tuple[ArmSummary, ...]
    comparisons: tuple[Comparison, ...]
    warnings: tuple[str, ...]

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return jsonable(dataclasses.asdict(self))


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
        records, declared = read_foreign(file, mapping, arm=name)
        notes: tuple[str, ...] = ()
    else:
        found = read_records(file)
        records, declared = found.records, None
        damaged = count_text(len(found.damaged), "damaged line")
        notes = (f"{name}: {damaged} left out",) if found.damaged else ()
    if not records:
        raise EvaluationError(
            "there are no results in it",
            where=str(file),
            fix="Give a file such as runs/NAME/evaluation/tuned.jsonl",
        )
    counts = Counter(record.case_id for record in records)
    repeated = [case_id for case_id, count in counts.items() if count > 1]
    if repeated:
        raise EvaluationError(
            f"{count_text(len(repeated), 'case')} there more than once: {_some(repeated)}",
            where=str(file),
        )
    return ResultSet(name, records, declared, notes)


def compare_results(
    sets: Sequence[ResultSet],
    *,
    on_difference: Literal["stop", "common"] = "stop",
    confidence: float = 0.95,
    num_samples: int = 10_000,
    seed: int = 0,
) -> ResultComparison:
    """Every file against the first, on the same cases.

    Args:
        sets: Two or more.
        on_difference: ``stop`` refuses files of different cases; ``common`` compares those that
            all files have and says so.
        confidence: Level of the intervals.
        num_samples: Resamples of the bootstrap.
        seed: Of bootstrap and randomisation test.

    Raises:
        EvaluationError: If there are fewer than two files, their cases differ, they have none in
            common, or the same case has another question or gold answer.
    """
    if len(sets) < 2:
        raise EvaluationError("a comparison needs at least two result files")
    names = [one.name for one in sets]
    if len(set(names)) < len(names):
        sets = [dataclasses.replace(s, name=f"{s.name} ({i})") for i, s in enumerate(sets, 1)]
    common = set.intersection(*({r.case_id for r in one.records} for one in sets))
    warnings = [*_coverage(sets, common, on_difference), *(n for one in sets for n in one.notes)]
    shared = {one.name: [r for r in one.records if r.case_id in common] for one in sets}
    first = sets[0]
    for other in sets[1:]:
        _check_same_cases(first, other, common)
    comparisons = tuple(
        compare_records(
            shared[first.name],
            shared[other.name],
            names=(first.name, other.name),
            titles=(first.name, other.name),
            confidence=confidence,
            num_samples=num_samples,
            seed=seed,
            warnings=warnings,
        )
        for other in sets[1:]
    )
    arms = tuple(
        summarise_arm(one.records, name=one.name, title=one.name, confidence=confidence)
        for one in sets
    )
    return ResultComparison(arms, comparisons, tuple(warnings))


def _coverage(sets: Sequence[ResultSet], common: set[str], on_difference: str) -> list[str]:
    if not common:
        raise EvaluationError(
            "the files have no case in common",
            where=", ".join(one.name for one in sets),
            fix="Compare results on the same cases",
        )
    warnings = [
        f"{one.name} holds {len(one.records)} of the {one.declared} cases that its file declares; "
        "the others are missing, not wrong, and no share over all of them can be given"
        for one in sets
        if one.declared is not None and one.declared != len(one.records)
    ]
    counts = [len(one.records) for one in sets]
    if all(count == len(common) for count in counts):
        return warnings
    parts = "; ".join(
        f"{one.name} has {count_text(len(one.records), 'case')}, "
        f"{len(one.records) - len(common)} of them not in all files"
        for one in sets
    )
    if on_difference == "stop":
        raise EvaluationError(
            f"the files hold different cases ({parts})",
            where=", ".join(one.name for one in sets),
            fix="Evaluate on the same cases, or ask for the common ones",
        )
    return [*warnings, f"unequal coverage: {parts}; compared on the {len(common)} in common"]


def _check_same_cases(first: ResultSet, other: ResultSet, common: set[str]) -> None:
    """The same id must mean the same question, options and gold answer."""
    left, right = by_case(first.records), by_case(other.records)
    differing = [
        case_id
        for case_id in sorted(common)
        if (left[case_id].question, left[case_id].gold, left[case_id].options)
        != (right[case_id].question, right[case_id].gold, right[case_id].options)
    ]
    if differing:
        raise EvaluationError(
            f"{count_text(len(differing), 'case')} with the same id but another question, options "
            f"or gold answer: {_some(differing)}",
            where=f"{first.name}, {other.name}",
            fix="Compare results on the same cases",
        )


def _file(path: Path) -> Path:
    if not path.is_dir():
        return path
    for candidate in (path / "evaluation" / "tuned.jsonl", path / "tuned.jsonl"):
        if candidate.is_file():
            return candidate
    raise EvaluationError(
        "the folder holds no evaluation",
        where=str(path),
        fix="Give a run folder that was evaluated, or a .jsonl file of results",
    )


def _name(file: Path) -> str:
    parent = file.parent
    run = parent.parent.name if parent.name == "evaluation" else parent.name
    return f"{run}/{file.stem}" if run else file.stem


def _some(ids: Sequence[str]) -> str:
    more = f" and {len(ids) - _SHOWN_IDS} more" if len(ids) > _SHOWN_IDS else ""
    return ", ".join(ids[:_SHOWN_IDS]) + more

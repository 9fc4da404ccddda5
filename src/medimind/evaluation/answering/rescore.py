"""A file of records scored anew by today's rules, without asking anything."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from medimind.errors import EvaluationError
from medimind.evaluation.evaluation import ArmSummary, summarise_arm
from medimind.evaluation.outputs import rescore
from medimind.evaluation.records import RecordFile, read_records
from medimind.evaluation.results import last_asked


@dataclass(frozen=True, slots=True)
class Rescored:
    """The counts before and after, and what changed.

    Attributes:
        before: As the file has it.
        after: By today's rules.
        changed: Outputs that another answer is read from: case, sample, before, after.
        damaged: Lines that could not be read.
    """

    before: ArmSummary
    after: ArmSummary
    changed: tuple[tuple[str, int, str | None, str | None], ...]
    damaged: tuple[int, ...]


def rescore_file(path: Path, *, out: Path | None = None) -> Rescored:
    """Score every record of a file anew; of a benchmark's, those that the last call counted.

    Args:
        path: JSONL that an evaluation wrote.
        out: Where the new records go; ``None`` writes none.

    Raises:
        EvaluationError: The file cannot be read, holds no output, or ``out`` exists already.
    """
    found = read_records(path)
    if not any(record.is_asked for record in found.records):
        raise EvaluationError(
            "no record of it holds an output",
            where=str(path),
            fix="Name a file of written answers, such as evaluation/benchmarks/medqa/tuned.jsonl",
        )
    wanted = last_asked(path)
    before = [one for one in found.records if wanted is None or one.key in wanted]
    after = [rescore(record) for record in before]
    changed = tuple(
        (old.case_id, old.sample, old.extracted or old.status, new.extracted or new.status)
        for old, new in zip(before, after, strict=True)
        if (old.extracted, old.status, old.correct) != (new.extracted, new.status, new.correct)
    )
    if out is not None:
        if out.exists():
            raise EvaluationError("the file exists already", where=str(out), fix="Name another")
        RecordFile(out, wanted=[record.key for record in after]).append(after)
    return Rescored(
        before=summarise_arm(before, name="before", title=path.name),
        after=summarise_arm(after, name="after", title=path.name),
        changed=changed,
        damaged=found.damaged,
    )

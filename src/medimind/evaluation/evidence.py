"""What is measured beside a comparison: benchmarks, wrong hints, judges, repeated training rows."""

from __future__ import annotations

from dataclasses import dataclass

from medimind.evaluation.compare import ResultComparison
from medimind.evaluation.judge import JudgedArm
from medimind.evaluation.misled import Misled
from medimind.evaluation.trained_on import BenchmarkOverlap


@dataclass(frozen=True, slots=True)
class Evidence:
    """Measured beside the comparison; what was not is empty.

    Attributes:
        benchmarks: The models on benchmarks.
        misled: Effect of wrong hints on each arm.
        judged: What judges made of open answers.
        overlaps: Training rows against each benchmark and the held-out cases.
        notes: What was asked for and could not be measured.
    """

    benchmarks: ResultComparison | None = None
    misled: tuple[Misled, ...] = ()
    judged: tuple[JudgedArm, ...] = ()
    overlaps: tuple[BenchmarkOverlap, ...] = ()
    notes: tuple[str, ...] = ()


NO_EVIDENCE = Evidence()

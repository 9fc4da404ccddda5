"""The report of ``medimind evaluate --benchmark``, where several models answered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from medimind.evaluation.judge import JudgedArm
    from medimind.evaluation.results import ResultSet


def write_benchmark_report(
    folder: Path,
    sets: Sequence[ResultSet],
    judged: tuple[JudgedArm, ...],
    *,
    run: str | None,
    seed: int,
) -> Path:
    """Write the files of the report; returns its page.

    Args:
        folder: Where they go.
        sets: What each model answered.
        judged: What judges made of open answers.
        run: The run whose training rows are searched for the questions.
        seed: Of resampling.
    """
    from medimind.evaluation.compare import compare_results
    from medimind.evaluation.evidence import Evidence
    from medimind.evaluation.report import write_comparison_report
    from medimind.evaluation.results import split_native
    from medimind.evaluation.trained_on import overlaps, training_cases
    from medimind.tracking.provenance import collect

    together, control = split_native(sets)
    sets = [*together, *([control] if control else [])]
    records = [record for one in sets for record in one.records]
    found = overlaps(training_cases(Path(run)), records) if run is not None else ()
    return write_comparison_report(
        folder,
        compare_results(together, control=control, seed=seed),
        sets=sets,
        provenance=collect(seed=seed, folder=Path.cwd()),
        evidence=Evidence(overlaps=found, judged=judged),
    ).html

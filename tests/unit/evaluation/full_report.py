"""Reports with every part filled, from made-up records; the browser tests look at them too."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from evaluation_builders import DATA_SUMMARY, PROVENANCE, make_curves, make_evaluation, make_records

from medimind.evaluation.compare import ResultComparison, compare_results
from medimind.evaluation.evidence import Evidence
from medimind.evaluation.judge import JudgedArm
from medimind.evaluation.misled import Misled
from medimind.evaluation.report import ReportFiles, write_comparison_report, write_report
from medimind.evaluation.results import ResultSet
from medimind.evaluation.statistics import Interval
from medimind.evaluation.trained_on import BenchmarkOverlap

HINTS = Misled(
    "tuned",
    "Tuned model",
    30,
    21,
    6,
    3,
    9,
    0.5,
    Interval(0.3, 0.7),
    0.0001,
    benchmark="medqa",
    read=28,
    read_without=29,
)
JUDGED = JudgedArm(
    "llama3.1", "tuned", 20, 18, 9, 2, 1, Interval(0.25, 0.66), 7, 0.61, "qwen", float("nan")
)
OVERLAP = BenchmarkOverlap(None, 30, 1, 90, (), (), (), 8, 0.5)
LEAK = dataclasses.replace(OVERLAP, benchmark="medqa", repeated=("medqa-7",))


def answers(name: str, *, right: float, seed: int, benchmark: str, num: int = 60):
    return [
        dataclasses.replace(record, benchmark=benchmark)
        for record in make_records(name, num=num, right=right, loss=2.0, seed=seed)
    ]


def benchmarks() -> ResultComparison:
    """On medqa the tuned model is far better, on pubmedqa far worse."""
    base = answers("base", right=0.1, seed=1, benchmark="medqa")
    base += answers("base", right=0.8, seed=2, benchmark="pubmedqa")
    tuned = answers("tuned", right=0.8, seed=3, benchmark="medqa")
    tuned += answers("tuned", right=0.1, seed=4, benchmark="pubmedqa")
    sets = [
        ResultSet("base", tuple(base), title="Base model"),
        ResultSet("tuned", tuple(tuned), title="Tuned model"),
    ]
    return compare_results(sets, num_samples=500)


def evaluation(num: int = 30):
    before = make_records("base", num=num, right=0.35, loss=2.2, seed=1)
    after = make_records("tuned", num=num, right=0.55, loss=1.9, seed=3)
    native = [
        dataclasses.replace(record, loss=None, loss_reasoning=None, loss_response=None)
        for record in make_records("base_native", num=num, right=0.45, loss=2.2, seed=2)
    ]
    return make_evaluation(before, after, native)


def write_full(folder: Path) -> ReportFiles:
    """A run's report with all its parts."""
    folder.mkdir(parents=True, exist_ok=True)
    return write_report(
        folder,
        evaluation(),
        curves=make_curves(),
        provenance=PROVENANCE,
        data_summary=DATA_SUMMARY,
        evidence=Evidence(benchmarks(), (HINTS,), (JUDGED,), (OVERLAP, LEAK)),
    )


def write_compared(folder: Path) -> ReportFiles:
    """Three models of files that do not cover the same cases, one with verdicts of its own."""
    records = tuple(make_records("theirs", num=40, right=0.5, loss=2.0, seed=3))
    sets = [
        ResultSet("base", tuple(make_records("a", num=20, right=0.2, loss=2.0, seed=1)), 40),
        ResultSet("tuned", tuple(make_records("b", num=40, right=0.6, loss=2.0, seed=2)), 40),
        ResultSet("theirs", records, verdicts={(record.case_id, 0): True for record in records}),
    ]
    compared = compare_results(sets, on_difference="common", num_samples=500)
    return write_comparison_report(folder, compared, sets=sets, provenance=PROVENANCE)

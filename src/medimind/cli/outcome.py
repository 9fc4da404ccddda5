"""A comparison on the terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.markup import escape
from rich.table import Table

from medimind.cli.judge import print_judged
from medimind.cli.terminal import console

if TYPE_CHECKING:
    from medimind.evaluation.comparison import Comparison, MetricComparison
    from medimind.evaluation.evaluation import Evaluation
    from medimind.evaluation.evidence import Evidence

STYLES = {"improved": "green", "worse": "red", "higher": "bold", "lower": "bold"}
"""Of the verdicts that conclude something."""


def print_evaluation(evaluation: Evaluation) -> None:
    """The headline and the before/after table."""
    console.print(f"\n[bold]{evaluation.summary.headline}[/]")
    print_comparison(evaluation.main)
    for note in evaluation.notes:
        console.print(f"note: {note}", markup=False)


def print_evidence(evidence: Evidence) -> None:
    """What judges said, and what could not be measured beside the comparison."""
    print_judged(evidence.judged, asked=False)
    for note in evidence.notes:
        console.print(f"note: {note}", markup=False)


def print_comparison(comparison: Comparison) -> None:
    """Every figure before and after, with its interval and its verdict."""
    from medimind.evaluation.wording import count_text

    table = Table(box=None, pad_edge=False)
    table.add_column(count_text(comparison.num_cases, "case"))  # folds where the terminal is narrow
    for title in ("before", "after", "difference"):
        table.add_column(title, justify="right", no_wrap=True)
    for title in ("interval", "verdict"):
        table.add_column(title, no_wrap=True)
    for metric in comparison.metrics:
        table.add_row(
            metric.title,
            _value(metric, metric.before),
            _value(metric, metric.after),
            _value(metric, metric.difference, sign="+"),
            _interval(metric),
            _verdict(metric),
        )
    console.print(table)
    if not all(_verdict(metric) for metric in comparison.metrics):
        console.print("Where no verdict stands, nothing can be concluded.", style="dim")
    for warning in comparison.warnings:
        console.print(f"[yellow]warning:[/] {escape(warning)}")


def _verdict(metric: MetricComparison) -> str:
    style = STYLES.get(metric.verdict)
    return f"[{style}]{metric.verdict}[/]" if style else ""


def _interval(metric: MetricComparison) -> str:
    if metric.interval is None:
        return ""
    low, high = metric.interval.low, metric.interval.high
    return f"{_value(metric, low, sign='+')} to {_value(metric, high, sign='+')}"


def _value(metric: MetricComparison, value: float, *, sign: str = "") -> str:
    if metric.unit == "share":
        return f"{100 * value:{sign}.1f} %"
    return f"{value:{sign}.3f}" if metric.unit in ("nats", "score") else f"{value:{sign},.1f}"

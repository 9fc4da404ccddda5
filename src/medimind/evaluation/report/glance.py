"""Right answers at a glance: before, after, and what could be had without knowing anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medimind.evaluation.arm import ArmSummary
from medimind.evaluation.benchmarks import BENCHMARKS
from medimind.evaluation.comparison import Comparison, MetricComparison
from medimind.evaluation.report.guessing import UNPROVEN, arm_after, is_unproven
from medimind.evaluation.report.verdicts import answer_metrics
from medimind.evaluation.report.views import WORDS, comparison_title
from medimind.evaluation.wording import value_text

_WAYS = {"answer_accuracy": "written out", "likelihood_accuracy": "likeliest option"}
_MARKS = {"answer_accuracy": "guessing", "likelihood_accuracy": "naming one option always"}


@dataclass(frozen=True, slots=True)
class Glance:
    """Right answers of one kind, on one set of cases, as text and as shares to draw.

    Attributes:
        place: What the cases are from.
        about: What is compared; empty where the report compares one pair only.
        way: Written out, or the likeliest option.
        before: Share of right answers before.
        after: And after.
        mark: What guessing, or naming the commonest right option, would get; ``None`` if unknown.
        shown: The three as text; the last empty where there is no mark.
        mark_name: How the mark is come by.
        num_cases: Cases.
        verdict: In words; a gain that passes no mark is not called one.
        tone: ``better``, ``worse``, ``mixed`` or ``open``.
    """

    place: str
    about: str
    way: str
    before: float
    after: float
    mark: float | None
    shown: tuple[str, str, str]
    mark_name: str
    num_cases: int
    verdict: str
    tone: str

    @property
    def text(self) -> str:
        """What the drawing shows, in words."""
        before, after, mark = self.shown
        by = f"; {mark} by {self.mark_name}" if mark else ""
        return f"{before} right before, {after} after{by}"


def glances(comparisons: Sequence[Comparison], arms: Sequence[ArmSummary]) -> tuple[Glance, ...]:
    """A line for every figure about right answers.

    Args:
        comparisons: What was compared, on held-out cases and benchmarks.
        arms: The models by themselves, which know the marks.
    """
    pairs = {(one.before, one.after) for one in comparisons}
    return tuple(
        _glance(one, metric, arms, is_only=len(pairs) == 1)
        for one in comparisons
        for metric in answer_metrics(one)
    )


def place_text(comparison: Comparison) -> str:
    """What the cases are from: the benchmark's title, where it is one of ours."""
    if comparison.benchmark is None:
        return comparison.unnamed[:1].upper() + comparison.unnamed[1:]
    known = BENCHMARKS.get(comparison.benchmark)
    return comparison.benchmark if known is None else known.card.title


def _glance(
    comparison: Comparison, metric: MetricComparison, arms: Sequence[ArmSummary], *, is_only: bool
) -> Glance:
    arm = arm_after(comparison, arms)
    mark = None
    if arm is not None:
        mark = arm.chance if metric.name == "answer_accuracy" else arm.commonest
    verdict, tone = WORDS[metric.verdict]
    if is_unproven(comparison, metric, arms):
        verdict, tone = UNPROVEN, "open"
    return Glance(
        place=place_text(comparison),
        about="" if is_only else comparison_title(comparison).removesuffix(_on(comparison)),
        way=_WAYS[metric.name],
        before=metric.before,
        after=metric.after,
        mark=mark,
        shown=(
            value_text(metric.before, "share"),
            value_text(metric.after, "share"),
            "" if mark is None else value_text(mark, "share"),
        ),
        mark_name=_MARKS[metric.name],
        num_cases=metric.num_cases,
        verdict=verdict,
        tone=tone,
    )


def _on(comparison: Comparison) -> str:
    return f", on {comparison.benchmark}" if comparison.benchmark else ""

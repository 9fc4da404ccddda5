"""Comparisons and arms as text: what every format of a report shows of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from medimind.evaluation.arm import ArmSummary
from medimind.evaluation.comparison import NOTHING, Comparison, MetricComparison
from medimind.evaluation.metrics import Unit
from medimind.evaluation.report.guessing import UNPROVEN, is_unproven, told_sentence
from medimind.evaluation.wording import (
    difference_text,
    interval_text,
    p_text,
    share_interval_text,
    value_text,
)

WORDS = {
    "improved": ("improved", "better"),
    "worse": ("worse", "worse"),
    "mixed": ("mixed", "mixed"),
    NOTHING: ("nothing can be concluded", "open"),
    "higher": ("higher", "neutral"),
    "lower": ("lower", "neutral"),
}
STATUS_TITLES = {
    "parsed": "Answer read",
    "unparsed": "No answer found",
    "cut_off": "Cut off",
    "unclosed": "Thinking never ended",
}


@dataclass(frozen=True, slots=True)
class Forest:
    """An interval to draw, each value from -1 to 1; right is better.

    Attributes:
        low: Left end.
        point: The difference.
        high: Right end.
        text: The same in words.
        ends: What left and right mean, where that is not worse and better.
    """

    low: float
    point: float
    high: float
    text: str
    ends: str


@dataclass(frozen=True, slots=True)
class Row:
    """One metric of a comparison as text.

    ``tone`` is ``better``, ``worse``, ``open`` or ``neutral``; ``forest`` is ``None`` where there
    is no interval.
    """

    name: str
    title: str
    explanation: str
    is_primary: bool
    before: str
    after: str
    difference: str
    interval: str
    p_value: str
    adjusted: str
    num_cases: int
    detectable: str
    verdict: str
    tone: str
    sentence: str
    forest: Forest | None


@dataclass(frozen=True, slots=True)
class Changed:
    """Gained and lost cases of a metric: each id, and the example that shows it (or nothing)."""

    title: str
    gained: tuple[tuple[str, str], ...]
    lost: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class ComparisonView:
    """A comparison as text; ``short_title`` leaves the benchmark out."""

    title: str
    short_title: str
    before_title: str
    after_title: str
    warnings: tuple[str, ...]
    rows: tuple[Row, ...]
    changed: tuple[Changed, ...]
    benchmark: str | None = None


@dataclass(frozen=True, slots=True)
class ArmView:
    """How one arm's answers were read, and what other rules would have read."""

    title: str
    num_asked: int
    correct: str
    interval: str
    statuses: tuple[tuple[str, str], ...]
    sensitivity: tuple[tuple[str, str], ...]


def comparison_view(
    comparison: Comparison, shown: Mapping[str, str], arms: Sequence[ArmSummary] = ()
) -> ComparisonView:
    """A comparison as text.

    Args:
        comparison: The figures.
        shown: Id of a case -> anchor of the example that shows it.
        arms: The models by themselves, which know what guessing would get.
    """
    scales: dict[Unit, float] = {}
    for metric in comparison.metrics:
        if metric.interval is not None:
            reach = max(abs(metric.interval.low), abs(metric.interval.high))
            scales[metric.unit] = max(scales.get(metric.unit, 0.0), reach)
    changed = tuple(
        Changed(metric.title, _listed(metric.gained, shown), _listed(metric.lost, shown))
        for metric in comparison.metrics
        if metric.is_primary and metric.is_binary and (metric.gained or metric.lost)
    )
    return ComparisonView(
        title=comparison_title(comparison),
        short_title=comparison_title(dataclasses.replace(comparison, benchmark=None)),
        before_title=comparison.before_title,
        after_title=comparison.after_title,
        warnings=comparison.warnings,
        rows=tuple(
            _row(comparison, metric, arms, scale=scales.get(metric.unit, 0.0))
            for metric in comparison.metrics
        ),
        changed=changed,
        benchmark=comparison.benchmark,
    )


def comparison_title(comparison: Comparison) -> str:
    """Arms of a run have titles to be said in a sentence, models of files have names."""
    before, after = comparison.before_title, comparison.after_title
    if comparison.before == before:
        title = f"{after} against {before}"
    else:
        title = f"{after} against the {before[:1].lower()}{before[1:]}"
    return f"{title}, on {comparison.benchmark}" if comparison.benchmark else title


def _listed(ids: Sequence[str], shown: Mapping[str, str]) -> tuple[tuple[str, str], ...]:
    return tuple((case_id, shown.get(case_id, "")) for case_id in ids)


def example_anchor(index: int) -> str:
    """Id of an example's place in the page."""
    return f"example-{index + 1}"


def _row(
    comparison: Comparison, metric: MetricComparison, arms: Sequence[ArmSummary], *, scale: float
) -> Row:
    unit, interval = metric.unit, metric.interval
    verdict, tone = WORDS[metric.verdict]
    if is_unproven(comparison, metric, arms):
        verdict, tone = UNPROVEN, "open"
    text = _no_spread(metric) if interval is None else interval_text(interval, unit)
    forest = None
    if interval is not None and scale > 0:
        sign = -1 if metric.better == "lower" else 1
        ends = sorted((sign * interval.low / scale, sign * interval.high / scale))
        side = "right is better" if metric.better else "right is more"
        forest = Forest(
            ends[0],
            sign * metric.difference / scale,
            ends[1],
            f"Difference {difference_text(metric.difference, unit)}, interval {text}; {side}",
            "" if metric.better else "less ← 0 → more",
        )
    return Row(
        name=metric.name,
        title=metric.title,
        explanation=metric.explanation,
        is_primary=metric.is_primary,
        before=value_text(metric.before, unit),
        after=value_text(metric.after, unit),
        difference=difference_text(metric.difference, unit),
        interval=text,
        p_value=p_text(metric.p_value),
        adjusted=p_text(metric.adjusted_p_value),
        num_cases=metric.num_cases,
        detectable=_detectable(metric),
        verdict=verdict,
        tone=tone,
        sentence=told_sentence(comparison, metric, arms),
        forest=forest,
    )


def _detectable(metric: MetricComparison) -> str:
    if metric.detectable == 0:
        return "unknown"
    if not math.isfinite(metric.detectable) or (metric.unit == "share" and metric.detectable > 1):
        return "none: too few cases"
    return value_text(metric.detectable, metric.unit, is_difference=True)


def _no_spread(metric: MetricComparison) -> str:
    return "the same in every case" if metric.num_cases > 1 else "none of one case"


def arm_view(arm: ArmSummary) -> ArmView:
    """How an arm's answers were read, as text."""
    interval = arm.interval
    return ArmView(
        title=f"{arm.title}, {arm.benchmark}" if arm.benchmark else arm.title,
        num_asked=arm.num_asked,
        correct=f"{arm.correct} of {arm.num_scored}",
        interval=f"{share_interval_text(interval)}\N{NO-BREAK SPACE}%" if interval else "",
        statuses=tuple((STATUS_TITLES[name], str(count)) for name, count in arm.statuses.items()),
        sensitivity=tuple(
            (count.rule, f"{count.correct} of {count.num_cases}") for count in arm.sensitivity
        ),
    )

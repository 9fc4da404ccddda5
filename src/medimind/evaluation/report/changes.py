"""What got better and what got worse, figure by figure: each once, with all places where it did."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from medimind.evaluation.arm import ArmSummary
from medimind.evaluation.comparison import Comparison, MetricComparison
from medimind.evaluation.report.glance import place_text
from medimind.evaluation.report.guessing import is_unproven
from medimind.evaluation.report.views import comparison_title
from medimind.evaluation.wording import difference_text, interval_text, value_text


@dataclass(frozen=True, slots=True)
class ChangeLine:
    """A figure in one place: before, after, and the difference with its interval."""

    place: str
    before: str
    after: str
    difference: str


@dataclass(frozen=True, slots=True)
class Change:
    """A figure that changed, in every place where it did."""

    title: str
    lines: tuple[ChangeLine, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """What one model does better and worse than another, the figures that decide first."""

    title: str
    better: tuple[Change, ...]
    worse: tuple[Change, ...]


def changes(
    comparisons: Sequence[Comparison], arms: Sequence[ArmSummary] = ()
) -> tuple[Changes, ...]:
    """Of each pair of models, over held-out cases and benchmarks together.

    Args:
        comparisons: What was compared.
        arms: The models by themselves, which know what guessing would get.
    """
    pairs: dict[str, list[Comparison]] = {}
    for one in comparisons:
        title = comparison_title(dataclasses.replace(one, benchmark=None))
        pairs.setdefault(title, []).append(one)
    return tuple(
        Changes(title, _with_verdict(own, "improved", arms), _with_verdict(own, "worse", arms))
        for title, own in pairs.items()
    )


def _with_verdict(
    comparisons: Sequence[Comparison], verdict: str, arms: Sequence[ArmSummary]
) -> tuple[Change, ...]:
    found: dict[tuple[bool, str], list[ChangeLine]] = {}
    for one in comparisons:
        for metric in one.metrics:
            if metric.verdict == verdict:
                place = (not metric.is_primary, metric.title)
                found.setdefault(place, []).append(_line(one, metric, arms))
    ordered = sorted(found.items(), key=lambda item: item[0][0])
    return tuple(Change(title, tuple(lines)) for (_, title), lines in ordered)


def _line(
    comparison: Comparison, metric: MetricComparison, arms: Sequence[ArmSummary]
) -> ChangeLine:
    unit, interval = metric.unit, metric.interval
    spread = "" if interval is None else f" ({interval_text(interval, unit)})"
    if is_unproven(comparison, metric, arms):
        spread += ", no better than guessing"
    return ChangeLine(
        place_text(comparison),
        value_text(metric.before, unit),
        value_text(metric.after, unit),
        difference_text(metric.difference, unit) + spread,
    )

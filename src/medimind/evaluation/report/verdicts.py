"""What several comparisons come to, in a word and a sentence."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from medimind.evaluation.arm import ArmSummary
from medimind.evaluation.comparison import NOTHING, Comparison, MetricComparison
from medimind.evaluation.evaluation import Overall, overall_verdict
from medimind.evaluation.report.guessing import is_unproven, told_sentence
from medimind.evaluation.report.views import comparison_title
from medimind.evaluation.wording import difference_text, interval_text, listed, value_text

_ANSWERS = ("answer_accuracy", "likelihood_accuracy")
_UNPROVEN = "right more often than before, but no more often than guessing would, on"
_WORDS: dict[Overall, str] = {
    "improved": "better on",
    "worse": "worse on",
    "mixed": "better by one measure and worse by another on",
    NOTHING: "no different, as far as so many cases can show, on",
}


def answer_metrics(comparison: Comparison) -> list[MetricComparison]:
    """The figures about right answers, written out and by likelihood."""
    return [metric for name in _ANSWERS if (metric := comparison.metric(name)) is not None]


def answers_verdict(comparisons: Sequence[Comparison]) -> Overall:
    """The verdict over the right answers of all comparisons together."""
    metrics = [metric for one in comparisons for metric in answer_metrics(one)]
    return overall_verdict(metrics) if metrics else NOTHING


def benchmarks_sentence(comparisons: Sequence[Comparison], arms: Sequence[ArmSummary] = ()) -> str:
    """On which benchmarks the answers got better or worse; empty without any.

    Args:
        comparisons: Before and after, on held-out cases and benchmarks.
        arms: The models by themselves, which know what guessing would get.
    """
    found: dict[str, list[str]] = {}
    for benchmark in dict.fromkeys(one.benchmark for one in comparisons):
        own = [one for one in comparisons if one.benchmark == benchmark and answer_metrics(one)]
        if benchmark is not None and own:
            found.setdefault(_words(own, arms), []).append(benchmark)
    if not found:
        return ""
    words = [_WORDS["improved"], _UNPROVEN, *(_WORDS[one] for one in ("worse", "mixed", NOTHING))]
    parts = [f"{one} {listed(found[one])}" for one in words if one in found]
    return f"On benchmarks it answers {'; '.join(parts)}."


def _words(comparisons: Sequence[Comparison], arms: Sequence[ArmSummary]) -> str:
    verdict = answers_verdict(comparisons)
    if verdict == "improved" and all_unproven(comparisons, arms):
        return _UNPROVEN
    return _WORDS[verdict]


def all_unproven(comparisons: Sequence[Comparison], arms: Sequence[ArmSummary]) -> bool:
    """Whether there are gains in right answers, and none is shown to pass its mark."""
    gains = [
        is_unproven(one, metric, arms)
        for one in comparisons
        for metric in answer_metrics(one)
        if metric.verdict == "improved"
    ]
    return bool(gains) and all(gains)


def named_sentence(
    comparison: Comparison, metric: MetricComparison, arms: Sequence[ArmSummary] = ()
) -> str:
    """A figure's sentence, with what was compared before it."""
    return f"{comparison_title(comparison)}. {told_sentence(comparison, metric, arms)}"


def named_sentences(
    comparisons: Sequence[Comparison], verdict: str, arms: Sequence[ArmSummary] = ()
) -> tuple[str, ...]:
    """The sentences of all figures with a verdict; a figure of several benchmarks makes one."""
    found: dict[tuple[str, str], list[tuple[Comparison, MetricComparison]]] = {}
    for one in comparisons:
        about = comparison_title(dataclasses.replace(one, benchmark=None))
        for metric in one.metrics:
            if metric.verdict == verdict:
                found.setdefault((about, metric.title), []).append((one, metric))
    return tuple(
        named_sentence(*group[0], arms)
        if len(group) == 1
        else f"{about}. {title}: {'; '.join(_brief(*pair, arms) for pair in group)}."
        for (about, title), group in found.items()
    )


def _brief(comparison: Comparison, metric: MetricComparison, arms: Sequence[ArmSummary]) -> str:
    form = ", no better than guessing" if is_unproven(comparison, metric, arms) else ""
    unit = metric.unit
    spread = "" if metric.interval is None else f", interval {interval_text(metric.interval, unit)}"
    return (
        f"on {comparison.place} {value_text(metric.before, unit)} before, "
        f"{value_text(metric.after, unit)} after "
        f"({difference_text(metric.difference, unit)}{spread}{form})"
    )

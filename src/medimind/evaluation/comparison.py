"""Two sets of records of the same cases, compared pair by pair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

import numpy as np

from medimind.evaluation.metrics import METRICS, MetricSpec, Unit
from medimind.evaluation.records import Record
from medimind.evaluation.statistics import (
    Interval,
    fewest_changed_cases,
    holm,
    mcnemar_exact,
    minimal_detectable_difference,
    paired_bootstrap,
    sign_flip_test,
    wilson_interval,
)
from medimind.evaluation.wording import difference_text, interval_text, value_text

Verdict = Literal["improved", "worse", "higher", "lower", "nothing can be concluded"]
NOTHING: Final = "nothing can be concluded"
_MIN_PAIRS = 6


@dataclass(frozen=True, slots=True)
class MetricComparison:
    """One figure before and after, over the cases that have both.

    Attributes:
        name: Key of the metric.
        title: Its name in the report.
        explanation: What it is.
        unit: ``share``, ``nats`` or ``tokens``.
        better: ``higher``, ``lower``, or ``None`` where neither is.
        is_primary: Whether it counts for the summary.
        is_binary: Whether each case gives yes or no.
        num_cases: Pairs; the denominator of both means.
        before: Mean before.
        after: Mean after.
        difference: After minus before.
        interval: Paired bootstrap interval of the difference; ``None`` where it has no spread to
            resample: one pair, or the same difference in all of them.
        before_interval: Wilson interval of a share.
        after_interval: The same after.
        p_value: Exact McNemar for yes and no, else the paired randomisation test; two-sided.
        adjusted_p_value: By Holm over the metrics of its group (primary or not).
        gained: Ids of the cases that became right, or yes (binary metrics only).
        lost: Ids of the cases that became wrong, or no.
        detectable: Smallest true difference that this many pairs would show in four of five runs.
        verdict: In plain words.
        sentence: The same as a sentence with the figures.
    """

    name: str
    title: str
    explanation: str
    unit: Unit
    better: Literal["higher", "lower"] | None
    is_primary: bool
    is_binary: bool
    num_cases: int
    before: float
    after: float
    difference: float
    interval: Interval | None
    before_interval: Interval | None
    after_interval: Interval | None
    p_value: float
    adjusted_p_value: float
    gained: tuple[str, ...]
    lost: tuple[str, ...]
    detectable: float
    verdict: Verdict
    sentence: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """All figures of one arm against another.

    Attributes:
        before: Name of the arm compared against.
        before_title: Its title.
        after: Name of the arm that is judged.
        after_title: Its title.
        num_cases: Cases both have.
        warnings: What makes the comparison less than complete.
        metrics: The figures that both have, in the report's order.
    """

    before: str
    before_title: str
    after: str
    after_title: str
    num_cases: int
    warnings: tuple[str, ...]
    metrics: tuple[MetricComparison, ...]

    def metric(self, name: str) -> MetricComparison | None:
        """The figures of one metric, if both arms have it."""
        return next((metric for metric in self.metrics if metric.name == name), None)


@dataclass(frozen=True, slots=True)
class _Pairs:
    spec: MetricSpec
    ids: tuple[str, ...]
    before: tuple[float, ...]
    after: tuple[float, ...]
    interval: Interval | None
    p_value: float


def compare_records(
    before: Sequence[Record],
    after: Sequence[Record],
    *,
    names: tuple[str, str],
    titles: tuple[str, str],
    confidence: float = 0.95,
    num_samples: int = 10_000,
    seed: int = 0,
    warnings: Sequence[str] = (),
) -> Comparison:
    """Every metric that both sides have, over the cases that both have.

    A difference is called *improved* or *worse* only if its bootstrap interval excludes 0 and its
    p-value, adjusted by Holm among the primary or among the descriptive metrics, lies under 1
    minus the confidence; a drop needs no more evidence than a gain.
    """
    later = {record.case_id: record for record in after}
    pairs = [(record, later[record.case_id]) for record in before if record.case_id in later]
    measured = [
        found
        for spec in METRICS
        if (found := _measure(spec, pairs, confidence, num_samples, seed)) is not None
    ]
    adjusted: dict[str, float] = {}
    for is_primary in (True, False):
        group = [one for one in measured if one.spec.is_primary == is_primary]
        p_values = holm([one.p_value for one in group])
        adjusted.update(zip((one.spec.name for one in group), p_values, strict=True))
    metrics = tuple(_judge(one, adjusted[one.spec.name], confidence) for one in measured)
    partial = [_coverage_warning(one, pairs) for one in measured]
    return Comparison(
        before=names[0],
        before_title=titles[0],
        after=names[1],
        after_title=titles[1],
        num_cases=len(pairs),
        warnings=(*warnings, *(text for text in partial if text)),
        metrics=metrics,
    )


def _measure(
    spec: MetricSpec,
    pairs: Sequence[tuple[Record, Record]],
    confidence: float,
    num_samples: int,
    seed: int,
) -> _Pairs | None:
    ids, first, second = [], [], []
    for left, right in pairs:
        one, other = spec.value(left), spec.value(right)
        if one is not None and other is not None:
            ids.append(left.case_id)
            first.append(float(one))
            second.append(float(other))
    if not ids:
        return None
    differences_N = np.array(second) - np.array(first)
    interval = None
    # Where every case changed alike, resampling says nothing about the spread.
    if np.ptp(differences_N) > 0:
        interval = paired_bootstrap(
            differences_N, num_samples=num_samples, confidence=confidence, seed=seed
        )
    if spec.is_binary:
        p_value = mcnemar_exact(int((differences_N > 0).sum()), int((differences_N < 0).sum()))
    else:
        p_value = sign_flip_test(differences_N, num_samples=num_samples, seed=seed)
    return _Pairs(spec, tuple(ids), tuple(first), tuple(second), interval, p_value)


def _judge(pairs: _Pairs, adjusted: float, confidence: float) -> MetricComparison:
    spec, num = pairs.spec, len(pairs.ids)
    differences_N = np.array(pairs.after) - np.array(pairs.before)
    difference = float(differences_N.mean())
    deviation = float(differences_N.std(ddof=1)) if num > 1 else math.inf
    detectable = minimal_detectable_difference(deviation, num, confidence=confidence)
    wilson: list[Interval | None] = [None, None]
    if spec.is_binary:
        detectable = max(detectable, fewest_changed_cases(confidence=confidence) / num)
        wilson = [
            wilson_interval(round(sum(values)), num, confidence=confidence)
            for values in (pairs.before, pairs.after)
        ]
    is_shown = (
        pairs.interval is not None
        and pairs.interval.excludes_zero
        and adjusted < 1 - confidence
        and num >= _MIN_PAIRS
    )
    verdict = _verdict(spec, difference) if is_shown else NOTHING
    changed = list(zip(pairs.ids, differences_N, strict=True)) if spec.is_binary else []
    gained = tuple(case_id for case_id, change in changed if change > 0)
    lost = tuple(case_id for case_id, change in changed if change < 0)
    before, after = float(np.mean(pairs.before)), float(np.mean(pairs.after))
    return MetricComparison(
        name=spec.name,
        title=spec.title,
        explanation=spec.explanation,
        unit=spec.unit,
        better=spec.better,
        is_primary=spec.is_primary,
        is_binary=spec.is_binary,
        num_cases=num,
        before=before,
        after=after,
        difference=difference,
        interval=pairs.interval,
        before_interval=wilson[0],
        after_interval=wilson[1],
        p_value=pairs.p_value,
        adjusted_p_value=adjusted,
        gained=gained,
        lost=lost,
        detectable=detectable,
        verdict=verdict,
        sentence=_sentence(pairs, (before, after), detectable, verdict),
    )


def _verdict(spec: MetricSpec, difference: float) -> Verdict:
    rose = difference > 0
    if spec.better is None:
        return "higher" if rose else "lower"
    return "improved" if rose == (spec.better == "higher") else "worse"


def _sentence(
    pairs: _Pairs, means: tuple[float, float], detectable: float, verdict: Verdict
) -> str:
    unit, num = pairs.spec.unit, len(pairs.ids)
    figures = (
        f"{pairs.spec.title}: {value_text(means[0], unit)} before, {value_text(means[1], unit)} "
        f"after ({difference_text(means[1] - means[0], unit)}"
    )
    if pairs.interval is not None:
        figures += f", interval {interval_text(pairs.interval, unit)}"
    elif pairs.before == pairs.after:
        figures += ", the same in every case"
    figures += f", n = {num})"
    if verdict != NOTHING:
        return f"{figures}: {verdict}."
    hint = f"a true difference under {value_text(detectable, unit, is_difference=True)}"
    if not math.isfinite(detectable) or detectable == 0:
        return f"{figures}: nothing can be concluded."
    return f"{figures}: nothing can be concluded; {hint} would mostly go unseen."


def _coverage_warning(one: _Pairs, pairs: Sequence[tuple[Record, Record]]) -> str | None:
    """Tells of cases that only one side has a figure for; both lacking it is no imbalance."""
    value = one.spec.value
    sides = [sum(value(pair[side]) is not None for pair in pairs) for side in (0, 1)]
    if sides[0] == sides[1] == len(one.ids):
        return None
    return (
        f"{one.spec.title}: measured for {sides[0]} cases before and {sides[1]} after; compared "
        f"on the {len(one.ids)} that have both"
    )


def by_case(records: Sequence[Record]) -> Mapping[str, Record]:
    """Records by the id of their case."""
    return {record.case_id: record for record in records}

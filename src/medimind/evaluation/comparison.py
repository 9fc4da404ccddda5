"""Two sets of records of the same cases, compared pair by pair."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from medimind.evaluation.metrics import METRICS, MetricSpec, Unit
from medimind.evaluation.pairs import CaseRecords, Pairs, group_by_case, make_pairs
from medimind.evaluation.records import HELD_OUT, Record
from medimind.evaluation.statistics import (
    Interval,
    fewest_changed_cases,
    holm,
    minimal_detectable_difference,
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
        is_binary: Whether each case gives yes or no; with several outputs a case it gives a share.
        num_cases: Pairs; the denominator of both means.
        before: Mean before.
        after: Mean after.
        difference: After minus before.
        interval: Paired bootstrap interval of the difference; ``None`` where it has no spread to
            resample: one pair, or the same difference in all of them.
        standard_error: Of the difference, clustered by case (Miller, 2024).
        before_interval: Wilson interval of a share.
        after_interval: The same after.
        p_value: Mid-p McNemar for yes and no, else the paired randomisation test; two-sided. It
            decides, because its size is right (``benchmarks/null_runs.py``).
        exact_p_value: Exact McNemar for yes and no, which is a little larger.
        adjusted_p_value: ``p_value`` by Holm over the metrics of its group (primary or not), of
            all comparisons that were made together.
        samples: Most outputs of a case on one side.
        gained: Ids of the cases that became right, or yes (shares only); with several outputs a
            case, those that more than half of them became.
        lost: Ids of the cases that became wrong, or no.
        detectable: Smallest true difference that this many pairs would show in four of five runs,
            its p-value adjusted among figures that did not change.
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
    standard_error: float
    before_interval: Interval | None
    after_interval: Interval | None
    p_value: float
    exact_p_value: float | None
    adjusted_p_value: float
    samples: int
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
        benchmark: What the cases are from; ``None`` for held-out cases.
        unnamed: What cases of no benchmark are called.
    """

    before: str
    before_title: str
    after: str
    after_title: str
    num_cases: int
    warnings: tuple[str, ...]
    metrics: tuple[MetricComparison, ...]
    benchmark: str | None = None
    unnamed: str = HELD_OUT

    @property
    def place(self) -> str:
        """What the cases are from, in words."""
        return self.benchmark or self.unnamed

    def metric(self, name: str) -> MetricComparison | None:
        """The figures of one metric, if both arms have it."""
        return next((metric for metric in self.metrics if metric.name == name), None)


@dataclass(frozen=True, slots=True)
class Sides:
    """Two sets of records to compare.

    Attributes:
        before: Records compared against.
        after: Records that are judged.
        names: Names of both arms.
        titles: Their titles.
        warnings: What makes the comparison less than complete.
        benchmark: What the cases are from; ``None`` for held-out cases.
        unnamed: What cases of no benchmark are called.
    """

    before: Sequence[Record]
    after: Sequence[Record]
    names: tuple[str, str]
    titles: tuple[str, str]
    warnings: tuple[str, ...] = ()
    benchmark: str | None = None
    unnamed: str = HELD_OUT


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

    A difference is called *improved* or *worse* only if its bootstrap interval excludes 0 (there is
    none where every case changed by as much) and its p-value, adjusted by Holm among the primary or
    among the descriptive metrics, lies under 1 minus the confidence; a drop needs no more evidence
    than a gain.
    """
    sides = Sides(before, after, names, titles, tuple(warnings))
    return compare_together([sides], confidence=confidence, num_samples=num_samples, seed=seed)[0]


def compare_together(
    together: Sequence[Sides], *, confidence: float = 0.95, num_samples: int = 10_000, seed: int = 0
) -> list[Comparison]:
    """Several comparisons that are read together: benchmarks, models, or both.

    P-values are adjusted by Holm over all of them at once, the primary figures and the descriptive
    ones each as a group: of twenty benchmarks one would show a difference by luck alone.
    """
    cases = [_common(sides) for sides in together]
    measured = [
        [
            pairs
            for spec in METRICS
            if (
                pairs := make_pairs(
                    spec, *found, confidence=confidence, num_samples=num_samples, seed=seed
                )
            )
            is not None
        ]
        for found in cases
    ]
    adjusted: dict[tuple[int, str], float] = {}
    group_sizes: dict[bool, int] = {}
    for is_primary in (True, False):
        group = [
            (index, one)
            for index, pairs in enumerate(measured)
            for one in pairs
            if one.spec.is_primary == is_primary
        ]
        p_values = holm([one.p_value for _, one in group])
        names = [(index, one.spec.name) for index, one in group]
        adjusted.update(zip(names, p_values, strict=True))
        group_sizes[is_primary] = len(group)
    return [
        _comparison(
            sides,
            found,
            [
                _judge(
                    one,
                    adjusted[index, one.spec.name],
                    confidence=confidence,
                    num_together=group_sizes[one.spec.is_primary],
                )
                for one in pairs
            ],
            pairs,
        )
        for index, (sides, found, pairs) in enumerate(zip(together, cases, measured, strict=True))
    ]


def _common(sides: Sides) -> tuple[CaseRecords, CaseRecords]:
    before, after = group_by_case(sides.before), group_by_case(sides.after)
    ids = [case_id for case_id in before if case_id in after]
    return {one: before[one] for one in ids}, {one: after[one] for one in ids}


def _comparison(
    sides: Sides,
    cases: tuple[CaseRecords, CaseRecords],
    metrics: Sequence[MetricComparison],
    measured: Sequence[Pairs],
) -> Comparison:
    partial = [_coverage_warning(one, cases) for one in measured]
    return Comparison(
        before=sides.names[0],
        before_title=sides.titles[0],
        after=sides.names[1],
        after_title=sides.titles[1],
        num_cases=len(cases[0]),
        warnings=(*sides.warnings, *(text for text in partial if text)),
        metrics=tuple(metrics),
        benchmark=sides.benchmark,
        unnamed=sides.unnamed,
    )


def _judge(
    pairs: Pairs, adjusted: float, *, confidence: float, num_together: int
) -> MetricComparison:
    spec, num = pairs.spec, len(pairs.ids)
    differences_N = pairs.differences_N
    difference = float(differences_N.mean())
    deviation = float(differences_N.std(ddof=1)) if num > 1 else math.inf
    # What Holm's procedure asks of one difference among figures that did not change.
    level = 1 - (1 - confidence) / num_together
    detectable = minimal_detectable_difference(deviation, num, confidence=level)
    wilson: list[Interval | None] = [None, None]
    if pairs.is_binary:
        detectable = max(detectable, fewest_changed_cases(confidence=level) / num)
        wilson = [
            wilson_interval(round(float(values_N.sum())), num, confidence=confidence)
            for values_N in (pairs.before_N, pairs.after_N)
        ]
    # Where every case changed by as much there is nothing to resample: the p-value decides alone.
    is_away = difference != 0 if pairs.interval is None else pairs.interval.excludes_zero
    is_shown = is_away and adjusted < 1 - confidence and num >= _MIN_PAIRS
    verdict = _verdict(spec, difference) if is_shown else NOTHING
    before, after = float(pairs.before_N.mean()), float(pairs.after_N.mean())
    gained, lost = _changed(pairs)
    return MetricComparison(
        name=spec.name,
        title=spec.title,
        explanation=spec.explanation,
        unit=spec.unit,
        better=spec.better,
        is_primary=spec.is_primary,
        is_binary=pairs.is_binary,
        num_cases=num,
        before=before,
        after=after,
        difference=difference,
        interval=pairs.interval,
        standard_error=pairs.standard_error,
        before_interval=wilson[0],
        after_interval=wilson[1],
        p_value=pairs.p_value,
        exact_p_value=pairs.exact_p_value,
        adjusted_p_value=adjusted,
        samples=pairs.samples,
        gained=gained,
        lost=lost,
        detectable=detectable,
        verdict=verdict,
        sentence=_sentence(pairs, (before, after), detectable, verdict),
    )


def _changed(pairs: Pairs) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Cases that most outputs answer otherwise than before: now yes, now no."""
    if not pairs.spec.is_binary:
        return (), ()
    was_N, is_N = pairs.before_N > 0.5, pairs.after_N > 0.5
    rows = list(zip(pairs.ids, was_N.tolist(), is_N.tolist(), strict=True))
    gained = tuple(case_id for case_id, was, is_now in rows if is_now and not was)
    lost = tuple(case_id for case_id, was, is_now in rows if was and not is_now)
    return gained, lost


def _verdict(spec: MetricSpec, difference: float) -> Verdict:
    rose = difference > 0
    if spec.better is None:
        return "higher" if rose else "lower"
    return "improved" if rose == (spec.better == "higher") else "worse"


def _sentence(pairs: Pairs, means: tuple[float, float], detectable: float, verdict: Verdict) -> str:
    unit, num = pairs.spec.unit, len(pairs.ids)
    figures = (
        f"{pairs.spec.title}: {value_text(means[0], unit)} before, {value_text(means[1], unit)} "
        f"after ({difference_text(means[1] - means[0], unit)}"
    )
    if pairs.interval is not None:
        figures += f", interval {interval_text(pairs.interval, unit)}"
    elif num > 1:
        alike = "by as much" if pairs.differences_N.any() else "the same"
        figures += f", {alike} in every case"
    outputs = f", {pairs.samples} outputs each" if pairs.samples > 1 else ""
    figures += f", n = {num}{outputs})"
    if verdict != NOTHING:
        return f"{figures}: {verdict}."
    if detectable == 0:
        return f"{figures}: nothing can be concluded."
    if not math.isfinite(detectable) or (unit == "share" and detectable > 1):
        return f"{figures}: nothing can be concluded, so few cases cannot show any difference."
    hint = f"a true difference under {value_text(detectable, unit, is_difference=True)}"
    return f"{figures}: nothing can be concluded; {hint} would mostly go unseen."


def _coverage_warning(one: Pairs, cases: tuple[CaseRecords, CaseRecords]) -> str | None:
    """Tells of cases that only one side has a figure for; both lacking it is no imbalance."""
    value = one.spec.value
    sides = [
        sum(any(value(record) is not None for record in records) for records in side.values())
        for side in cases
    ]
    if one.spec.is_conditional or sides[0] == sides[1] == len(one.ids):
        return None
    return (
        f"{one.spec.title}: measured for {sides[0]} cases before and {sides[1]} after; compared "
        f"on the {len(one.ids)} that have both"
    )


def by_case(records: Sequence[Record]) -> Mapping[str, Record]:
    """Records by the id of their case."""
    return {record.case_id: record for record in records}

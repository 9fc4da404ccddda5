"""Standard errors of values that are not independent."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from statistics import NormalDist

from numpy.typing import ArrayLike

from medimind.evaluation.statistics.interval import Interval, as_values, wilson_interval
from medimind.evaluation.statistics.special import student_quantile


def clustered_standard_error(values: ArrayLike, clusters: Sequence[Hashable]) -> float:
    """Standard error of a mean whose values come in clusters (Miller, 2024, equation 4).

    Several samples of one question, or questions about one passage, are not independent; their
    deviations are summed per cluster before they are squared.

    Args:
        values: One value an observation.
        clusters: The cluster of each observation.
    """
    values_N = as_values(values)
    if len(clusters) != values_N.size:
        raise ValueError("values and clusters differ in length")
    deviations_N = values_N - values_N.mean()
    sums: dict[Hashable, float] = {}
    for cluster, deviation in zip(clusters, deviations_N, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + float(deviation)
    return math.sqrt(math.fsum(total**2 for total in sums.values())) / values_N.size


def clustered_interval(
    values: ArrayLike, clusters: Sequence[Hashable], *, confidence: float = 0.95
) -> Interval:
    """Interval of a mean whose values come in clusters: Student's, at clusters - 1 degrees.

    Args:
        values: One value an observation.
        clusters: The cluster of each observation.
        confidence: Level of the interval.
    """
    num = len(set(clusters))
    error = clustered_standard_error(values, clusters)
    if num < 2:
        return Interval(-math.inf, math.inf)
    mean = float(as_values(values).mean())
    # The deviations are from the sample's own mean: the factor that Bessel's correction is.
    error *= math.sqrt(num / (num - 1))
    half = student_quantile((1 + confidence) / 2, degrees=num - 1) * error
    return Interval(mean - half, mean + half)


def clustered_share_interval(
    successes: ArrayLike, clusters: Sequence[Hashable], *, confidence: float = 0.95
) -> Interval:
    """Interval of a share whose outputs come in clusters, also where none or all succeed.

    Wilson's interval at the effective number of outputs (Kish, 1965; Korn & Graubard, 1998): the
    number of independent ones with the same standard error, shortened by Student's quantile for
    few clusters. Clusters that are all alike say no more than one output each. A symmetric
    interval would have no width there, and holds the share too rarely wherever it is near 0 or 1.
    Clusters of one output give Wilson's interval itself.

    Args:
        successes: 1 or 0 an output.
        clusters: The cluster of each output.
        confidence: Level of the interval.
    """
    values_N, num_clusters = as_values(successes), len(set(clusters))
    share, effective = float(values_N.mean()), float(num_clusters)
    if 1 < num_clusters < values_N.size:
        variance = clustered_standard_error(values_N, clusters) ** 2
        variance *= num_clusters / (num_clusters - 1)
        if variance > 0:
            effective = min(float(values_N.size), share * (1 - share) / variance)
        upper = (1 + confidence) / 2
        normal = NormalDist().inv_cdf(upper)
        effective *= (normal / student_quantile(upper, degrees=num_clusters - 1)) ** 2
    return wilson_interval(share * effective, effective, confidence=confidence)

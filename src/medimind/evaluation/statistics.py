"""Paired statistics with which two models are compared on the same cases.

All of it is numpy and the standard library; the tests hold it to scipy and statsmodels. Every
random draw comes from a seed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray

# Resamples drawn at once: about this many values are held in memory.
_CHUNK_VALUES = 4_000_000


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval; both ends belong to it."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside."""
        return self.low > 0 or self.high < 0


def mcnemar_exact(gained: int, lost: int) -> float:
    """Two-sided p-value of the exact McNemar test (McNemar, 1947).

    Under the null each case whose outcome changed is as likely gained as lost, so the smaller of
    the two counts is binomial with p = 1/2; the sum is taken in whole numbers, without rounding.

    Args:
        gained: Cases wrong before and right after.
        lost: Cases right before and wrong after.
    """
    changed = gained + lost
    if gained < 0 or lost < 0:
        raise ValueError("counts cannot be negative")
    if changed == 0:
        return 1.0
    tail = sum(math.comb(changed, k) for k in range(min(gained, lost) + 1))
    return min(1.0, 2 * tail / 2**changed)


def paired_bootstrap(
    differences: ArrayLike,
    *,
    num_samples: int = 10_000,
    confidence: float = 0.95,
    seed: int = 0,
    expanded: bool = True,
) -> Interval:
    """Percentile interval of the mean of paired differences (Efron & Tibshirani, 1993, ch. 13).

    Cases are drawn with replacement, each with its value before and after. Percentile intervals
    of few cases are too narrow: they lack the factor ``sqrt(n / (n - 1))`` and Student's t.
    ``expanded`` takes the percentiles at ``Phi(-sqrt(n / (n - 1)) * t)`` instead, with ``t`` the
    Student quantile at ``n - 1`` degrees of freedom (Hesterberg, 2015, section 3.5).

    Args:
        differences: After minus before, one value a case.
        num_samples: Resamples.
        confidence: Level of the interval.
        seed: Seed of the resampling.
        expanded: Whether to correct for few cases.
    """
    values_N = _values(differences)
    num = values_N.size
    if num == 1 or np.ptp(values_N) == 0:
        # Resampling equal values says nothing about their spread.
        mean = float(values_N.mean())
        return Interval(mean, mean) if num > 1 else Interval(-math.inf, math.inf)
    means = _resampled_means(values_N, num_samples=num_samples, seed=seed)
    tail = (1 - confidence) / 2
    if expanded:
        t = student_quantile(1 - tail, degrees=num - 1)
        tail = NormalDist().cdf(-math.sqrt(num / (num - 1)) * t)
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(low), float(high))


def _resampled_means(
    values_N: NDArray[np.float64], *, num_samples: int, seed: int
) -> NDArray[np.float64]:
    rng = np.random.default_rng(seed)
    num = values_N.size
    chunk = max(1, _CHUNK_VALUES // num)
    means = np.empty(num_samples)
    for start in range(0, num_samples, chunk):
        rows = min(chunk, num_samples - start)
        means[start : start + rows] = values_N[rng.integers(0, num, (rows, num))].mean(axis=1)
    return means


def sign_flip_test(differences: ArrayLike, *, num_samples: int = 10_000, seed: int = 0) -> float:
    """Two-sided p-value of the paired randomisation test (Fisher, 1935).

    If tuning changed nothing, each case's before and after could be swapped. With up to 2^12
    swaps all are tried; with more, ``num_samples`` of them, and the p-value counts the observed
    one too, so that it is never 0 (Phipson & Smyth, 2010).
    """
    values_N = _values(differences)
    num = values_N.size
    observed = abs(float(values_N.sum()))
    # Sums of the same numbers in another order differ in their last bits.
    threshold = observed - 1e-12 * float(np.abs(values_N).sum())
    if num <= 12:
        codes = np.arange(2**num)[:, None] >> np.arange(num) & 1
        return float(np.mean(np.abs((1 - 2 * codes) @ values_N) >= threshold))
    rng = np.random.default_rng(seed)
    chunk = max(1, _CHUNK_VALUES // num)
    hits = 0
    for start in range(0, num_samples, chunk):
        rows = min(chunk, num_samples - start)
        signs = 1 - 2 * rng.integers(0, 2, (rows, num), dtype=np.int8)
        hits += int(np.sum(np.abs(signs @ values_N) >= threshold))
    return (hits + 1) / (num_samples + 1)


def wilson_interval(successes: int, num: int, *, confidence: float = 0.95) -> Interval:
    """Interval of a share (Wilson, 1927); never leaves 0 to 1, even at 0 or ``num`` successes."""
    if not 0 <= successes <= num:
        raise ValueError("successes must lie between 0 and num")
    if num == 0:
        return Interval(0.0, 1.0)
    z = NormalDist().inv_cdf((1 + confidence) / 2)
    share = successes / num
    scale = 1 + z**2 / num
    centre = (share + z**2 / (2 * num)) / scale
    half = z * math.sqrt(share * (1 - share) / num + z**2 / (4 * num**2)) / scale
    low = 0.0 if successes == 0 else centre - half
    return Interval(low, 1.0 if successes == num else centre + half)


def clustered_standard_error(values: ArrayLike, clusters: Sequence[Hashable]) -> float:
    """Standard error of a mean whose values come in clusters (Miller, 2024, equation 4).

    Several samples of one question, or questions about one passage, are not independent; their
    deviations are summed per cluster before they are squared.

    Args:
        values: One value an observation.
        clusters: The cluster of each observation.
    """
    values_N = _values(values)
    if len(clusters) != values_N.size:
        raise ValueError("values and clusters differ in length")
    deviations_N = values_N - values_N.mean()
    sums: dict[Hashable, float] = {}
    for cluster, deviation in zip(clusters, deviations_N, strict=True):
        sums[cluster] = sums.get(cluster, 0.0) + float(deviation)
    return math.sqrt(math.fsum(total**2 for total in sums.values())) / values_N.size


def minimal_detectable_difference(
    standard_deviation: float, num: int, *, confidence: float = 0.95, power: float = 0.8
) -> float:
    """Smallest true mean difference that ``num`` pairs would show (Miller, 2024, equation 9).

    Args:
        standard_deviation: Of the paired differences.
        num: Pairs.
        confidence: 1 minus the two-sided error level.
        power: Chance of showing it.
    """
    if num == 0:
        return math.inf
    normal = NormalDist()
    z = normal.inv_cdf((1 + confidence) / 2) + normal.inv_cdf(power)
    return z * standard_deviation / math.sqrt(num)


def fewest_changed_cases(*, confidence: float = 0.95) -> int:
    """Cases that must change, all in one direction, before exact McNemar can show anything."""
    changed = 1
    while mcnemar_exact(changed, 0) >= 1 - confidence:
        changed += 1
    return changed


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values adjusted for being several (Holm, 1979), in the order they came in."""
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    adjusted = [0.0] * len(p_values)
    largest = 0.0
    for rank, index in enumerate(order):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def student_quantile(probability: float, *, degrees: int) -> float:
    """Quantile of Student's t distribution."""
    if not 0 < probability < 1 or degrees < 1:
        raise ValueError("probability must lie between 0 and 1, degrees be 1 or more")
    if probability < 0.5:
        return -student_quantile(1 - probability, degrees=degrees)
    # Upper tail: 2 (1 - p) = I_x(v/2, 1/2) with x = v / (v + t^2).
    tail = 2 * (1 - probability)
    x = _bisect(lambda x: incomplete_beta(degrees / 2, 0.5, x) - tail)
    return math.sqrt(degrees * (1 - x) / x) if x < 1 else 0.0


def _bisect(function: Callable[[float], float]) -> float:
    low, high = 0.0, 1.0
    for _ in range(200):
        middle = (low + high) / 2
        if middle in (low, high):
            break
        if function(middle) < 0:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def incomplete_beta(a: float, b: float, x: float) -> float:
    """Regularised incomplete beta function ``I_x(a, b)`` by Lentz's continued fraction.

    Numerical Recipes, 3rd edition, section 6.4.
    """
    if x <= 0 or x >= 1:
        return float(x >= 1)
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, 1 - x)
    front = math.exp(
        math.lgamma(a + b) - math.lgamma(a) - math.lgamma(b) + a * math.log(x) + b * math.log1p(-x)
    )
    tiny = 1e-300
    c, d = 1.0, 1 - (a + b) * x / (a + 1)
    d = 1 / (d if abs(d) > tiny else tiny)
    fraction = d
    for m in range(1, 10_000):
        for numerator in (
            m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m)),
            -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1)),
        ):
            d = 1 + numerator * d
            d = 1 / (d if abs(d) > tiny else tiny)
            c = 1 + numerator / c
            c = c if abs(c) > tiny else tiny
            step = c * d
            fraction *= step
        if abs(step - 1) < 1e-16:
            break
    return front * fraction / a


def _values(values: ArrayLike) -> NDArray[np.float64]:
    array_N = np.asarray(values, dtype=np.float64)
    if array_N.ndim != 1 or array_N.size == 0:
        raise ValueError("needs a flat list of at least one value")
    if not np.isfinite(array_N).all():
        raise ValueError("values must be finite")
    return array_N

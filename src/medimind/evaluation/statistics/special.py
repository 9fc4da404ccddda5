"""Quantiles that the standard library lacks."""

from __future__ import annotations

import math
from collections.abc import Callable


def student_quantile(probability: float, *, degrees: int) -> float:
    """Quantile of Student's t distribution."""
    if not 0 < probability < 1 or degrees < 1:
        raise ValueError("probability must lie between 0 and 1, degrees be 1 or more")
    if probability < 0.5:
        return -student_quantile(1 - probability, degrees=degrees)
    # With y = t^2 / (v + t^2): 2 p - 1 = I_y(1/2, v/2), and 2 (1 - p) = I_{1-y}(v/2, 1/2). The
    # smaller of both is solved for.
    inner, half = 2 * probability - 1, degrees / 2

    def excess(t: float) -> float:
        y, rest = t * t / (degrees + t * t), degrees / (degrees + t * t)
        if inner < 0.5:
            return incomplete_beta(0.5, half, y, complement=rest) - inner
        return 2 * (1 - probability) - incomplete_beta(half, 0.5, rest, complement=y)

    return _root(excess) if inner else 0.0


def _root(function: Callable[[float], float]) -> float:
    """Where a growing function passes 0, above 0."""
    low, high = 0.0, 1.0
    while function(high) < 0:
        low, high = high, 2 * high
    while True:
        middle = (low + high) / 2
        if middle in (low, high):
            return middle
        if function(middle) < 0:
            low = middle
        else:
            high = middle


def incomplete_beta(a: float, b: float, x: float, *, complement: float | None = None) -> float:
    """Regularised incomplete beta function ``I_x(a, b)`` by Lentz's continued fraction.

    Numerical Recipes, 3rd edition, section 6.4.

    Args:
        a: Above 0.
        b: Above 0.
        x: From 0 to 1.
        complement: ``1 - x``, where it is known better than ``x`` near 1 can tell.
    """
    rest = 1 - x if complement is None else complement
    if x <= 0 or rest <= 0:
        return float(x > 0)
    if x > (a + 1) / (a + b + 2):
        return 1 - incomplete_beta(b, a, rest, complement=x)
    log_x = math.log(x) if x < 0.5 else math.log1p(-rest)
    log_rest = math.log(rest) if rest < 0.5 else math.log1p(-x)
    front = math.exp(a * log_x + b * log_rest - _log_beta(a, b))
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


def _log_beta(a: float, b: float) -> float:
    """``log B(a, b)``, without the difference of two large ``lgamma``.

    Stirling's series in the form of Didonato and Morris, 1992 (algorithm 708, ``BETALN``).
    """
    less, more = min(a, b), max(a, b)
    share = less / (less + more)
    if more < 10:
        return math.lgamma(a) + math.lgamma(b) - math.lgamma(a + b)
    rest = _stirling_rest(more) - _stirling_rest(less + more)
    if less < 10:
        growth = less - less * math.log(less + more) + (more - 0.5) * math.log1p(-share)
        return math.lgamma(less) + rest + growth
    growth = (less - 0.5) * math.log(share) + more * math.log1p(-share) - 0.5 * math.log(more)
    return 0.5 * math.log(2 * math.pi) + _stirling_rest(less) + rest + growth


def _stirling_rest(x: float) -> float:
    """What ``lgamma(x)`` has beyond Stirling's formula, for x of 10 or more."""
    terms = (1 / 12, -1 / 360, 1 / 1260, -1 / 1680, 1 / 1188, -691 / 360360, 1 / 156)
    return sum(term / x ** (2 * power + 1) for power, term in enumerate(terms))

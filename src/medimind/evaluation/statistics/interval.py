"""Confidence intervals, and the interval of a share."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True, slots=True)
class Interval:
    """A confidence interval; both ends belong to it."""

    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """Whether 0 lies outside."""
        return self.low > 0 or self.high < 0


def wilson_interval(successes: float, num: float, *, confidence: float = 0.95) -> Interval:
    """Interval of a share (Wilson, 1927); never leaves 0 to 1, even at 0 or ``num`` successes.

    Args:
        successes: Of ``num``; neither need be whole where ``num`` is an effective number.
        num: Independent observations.
        confidence: Level of the interval.
    """
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


def as_values(values: ArrayLike) -> NDArray[np.float64]:
    """The values as a flat array of float64.

    Raises:
        ValueError: If there are none, or one is not finite.
    """
    array_N = np.asarray(values, dtype=np.float64)
    if array_N.ndim != 1 or array_N.size == 0:
        raise ValueError("needs a flat list of at least one value")
    if not np.isfinite(array_N).all():
        raise ValueError("values must be finite")
    return array_N

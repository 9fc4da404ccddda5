"""The scale that models work on: skewed values by their logarithm, all with spread 1."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from medimind.forecasting.records.table import Floats

# Values with a longer tail than this are modelled by their logarithm.
_SKEWED = 1.0
# Scores that reach 0 need a shift for it, and a longer tail to be worth it.
_SKEWED_WITH_ZERO = 2.0


@dataclass(frozen=True, slots=True)
class Scale:
    """A monotone map from a code's unit to a scale with centre 0 and spread 1, and back.

    ``z = (g(y) - centre) / spread`` with ``g(y) = y``, or with ``sign`` set
    ``g(y) = sign * log(sign * y + shift)``: 1 pulls a tail of high values in, -1 one of low values.
    Medians and intervals keep their meaning under it, means do not.
    """

    sign: int = 0
    shift: float = 0.0
    centre: float = 0.0
    spread: float = 1.0
    low: float = -np.inf
    high: float = np.inf

    def forward(self, value: Floats) -> Floats:
        """Values of the code's unit on the models' scale, clipped to its domain."""
        if not self.sign:
            return (value - self.centre) / self.spread
        inside = np.maximum(self.sign * value + self.shift, 1e-6 * self.spread)
        return (self.sign * np.log(inside) - self.centre) / self.spread

    def inverse(self, scaled: Floats) -> Floats:
        """Values on the models' scale in the code's unit, within what was ever seen plausible."""
        plain = scaled * self.spread + self.centre
        if self.sign:
            plain = self.sign * (np.exp(np.minimum(self.sign * plain, 500.0)) - self.shift)
        return np.clip(plain, self.low, self.high)


def choose_scale(value: Floats) -> Scale:
    """The scale on which these values are nearly symmetric.

    Predictions stay within the values seen, widened by a tenth of their range; a quantity that was
    never negative stays so.
    """
    low, high = float(value.min()), float(value.max())
    margin = 0.1 * (high - low) or 1.0
    bottom = max(0.0, low - margin) if low >= 0 else low - margin
    sign, shift = _skew_fix(value, low=low, high=high, margin=margin)
    plain = value if not sign else sign * np.log(sign * value + shift)
    spread = float(np.std(plain)) or 1.0
    return Scale(
        sign=sign,
        shift=shift,
        centre=float(np.mean(plain)),
        spread=spread,
        low=bottom,
        high=high + margin,
    )


def _skew_fix(value: Floats, *, low: float, high: float, margin: float) -> tuple[int, float]:
    skew = skewness(value)
    if low >= 0 and skew > (_SKEWED if low > 0 else _SKEWED_WITH_ZERO):
        shift = 0.0 if low > 0 else float(np.quantile(value[value > 0], 0.1))
        if abs(skewness(np.log(value + shift))) < abs(skew):
            return 1, shift
    if skew < -_SKEWED:
        shift = high + margin
        if abs(skewness(np.log(shift - value))) < abs(skew):
            return -1, shift
    return 0, 0.0


def skewness(value: Floats) -> float:
    """Third standardised moment; 0 for values that are all equal."""
    centred = value - value.mean()
    spread = float(np.sqrt(np.mean(centred**2)))
    return float(np.mean(centred**3)) / spread**3 if spread > 0 else 0.0

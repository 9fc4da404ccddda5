"""Coverage and width of 90 % intervals, and what intervals that hold exactly 90 % would show."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.stats import binom, binomtest, norm

from medimind.config.forecast_models import IntervalsFor
from medimind.forecasting.conformal import calibrate
from medimind.forecasting.crossfit import OutOfFold
from medimind.forecasting.intervals import interval_errors

KINDS: tuple[IntervalsFor, ...] = ("visits", "last_visits")


def ends_of(
    held: OutOfFold,
    inverse: Callable[[np.ndarray], np.ndarray],
    wanted: IntervalsFor,
    last: np.ndarray,
    point: np.ndarray,
    spread: np.ndarray,
    horizon: np.ndarray,
) -> tuple[np.ndarray, ...]:
    """Ends of our 90 % intervals, and of conformal ones round the last value.

    Both have the same patients, pairs, horizons and calibration.
    """
    errors = interval_errors(held, wanted=wanted)
    ours = errors.calibrated()
    value = inverse(held.windows.value)
    flat = calibrate(
        value[errors.target] - value[errors.origin],
        np.ones(len(errors.origin)),
        errors.horizon,
        errors.owner,
    )
    return (
        *(inverse(point + spread * ours.multiplier(horizon, p)) for p in (5, 95)),
        *(last + flat.multiplier(horizon, p) for p in (5, 95)),
    )


def interval_figures(rows: list[dict], wanted: IntervalsFor) -> dict:
    found = [row["intervals"][wanted] for row in rows]
    covered = np.array([one["covered"] for one in found])
    _, patient = np.unique([row["patient"] for row in rows], return_inverse=True)
    # Of a ratio of sums over patients (Cochran, 1977, equation 6.9).
    away = np.bincount(patient, covered - covered.mean())
    return {
        "coverage": float(covered.mean()),
        "standard_error": float(np.sqrt(np.sum(away**2)) / len(rows)),
        "coverage_p_value": float(binomtest(int(covered.sum()), len(rows), 0.9).pvalue),
        "width_ratio": float(
            np.mean([one["width"] for one in found])
            / np.mean([one["last_value_width"] for one in found])
        ),
        "last_value_coverage": float(np.mean([one["last_value_covered"] for one in found])),
    }


def chance_within(standard_error: float) -> float:
    """How likely exact intervals show 88 to 92 % in a sample with this standard error."""
    return float(norm.cdf(0.02 / standard_error) - norm.cdf(-0.02 / standard_error))


def rejections(features: list[dict]) -> dict:
    """How many features an exact binomial test rejects, and how many it would by chance."""
    rejected = sum(one["coverage_p_value"] < 0.05 for one in features)
    chance = np.ones(1)
    expected = 0.0
    for one in features:
        num = one["num"]
        away = [k for k in range(num + 1) if binomtest(k, num, 0.9).pvalue < 0.05]
        size = float(binom.pmf(away, num, 0.9).sum())
        expected += size
        chance = np.convolve(chance, [1 - size, size])
    return {
        "tests": len(features),
        "rejected": rejected,
        "rejected_by_chance": expected,
        "chance_of_so_many": float(chance[rejected:].sum()),
        "mean_width_ratio": float(np.mean([one["width_ratio"] for one in features])),
    }

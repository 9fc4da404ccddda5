"""Intervals from errors on other patients, by horizon.

Calibration is crepes' conformal predictive system (Boström, 2022), normalised by the expected size
of the error and apart for each range of horizons. What is kept is a table of its percentiles, so
prediction needs numpy only. Legend: ``R`` forecasts, ``B`` ranges of horizons, ``Q`` percentiles.
"""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np

from medimind.errors import MissingExtraError
from medimind.forecasting.records.table import Floats, Integers

PERCENTILES = np.array([0.5, 1.0, 2.5, *range(5, 96, 5), 97.5, 99.0, 99.5])
"""Where the predictive distribution is tabulated, in percent."""

LEVELS = (0.5, 0.8, 0.9)

_MOST_RANGES = 10
# Errors wanted in a range of horizons: its 95th percentile then stands on ten of them. With fewer
# errors in all there are still a few ranges, down to five errors above that percentile.
_WANTED_PAIRS, _FEWEST_PAIRS, _FEW_RANGES = 200, 100, 5


@dataclass(frozen=True, slots=True, eq=False)
class Calibration:
    """Percentiles of the standardised error ``(y - forecast) / spread``.

    Attributes:
        log_horizon: (B,) Median logarithm of the horizons (years) of each range, rising.
        longest_years: Longest horizon that was calibrated.
        table_BQ: Percentiles, rising in each row; in between they are interpolated.
        num_patients: Patients whose errors went in.
        num_pairs: Errors that went in.
    """

    log_horizon: Floats
    longest_years: float
    table_BQ: Floats
    num_patients: int
    num_pairs: int

    def percentiles(self, horizon_years: Floats) -> Floats:
        """(R, Q) Percentiles at each horizon."""
        at = np.log(np.maximum(horizon_years, 1e-6))
        return np.column_stack([np.interp(at, self.log_horizon, c) for c in self.table_BQ.T])

    def multiplier(self, horizon_years: Floats, percentile: float) -> Floats:
        """(R,) How many spreads above the forecast that percentile lies."""
        at = np.log(np.maximum(horizon_years, 1e-6))
        column = self.table_BQ[:, int(np.argmin(np.abs(PERCENTILES - percentile)))]
        return np.interp(at, self.log_horizon, column)


def calibrate(
    error: Floats,
    spread: Floats,
    horizon_years: Floats,
    patient_index: Integers,
    *,
    num_ranges: int = _MOST_RANGES,
) -> Calibration:
    """The table from out-of-fold errors (R,), each with its expected size (R,).

    Horizons are cut into at most ``num_ranges`` ranges of equally many errors.
    """
    try:
        from crepes import ConformalPredictiveSystem
    except ImportError:
        raise MissingExtraError("crepes", extra="forecast") from None
    edges, labels = _ranges(horizon_years, num_ranges)
    system = ConformalPredictiveSystem().fit(error, sigmas=spread, bins=labels)
    num_bins = len(edges) - 1
    nothing, one, bins = np.zeros(num_bins), np.ones(num_bins), np.arange(num_bins)
    percentiles = [float(percentile) for percentile in PERCENTILES]
    # Low percentiles are rounded down and high ones up, which keeps coverage at or above nominal.
    with warnings.catch_warnings():
        # That outer percentiles want more errors than there are: they are bounded below.
        warnings.filterwarnings("ignore", message="the no. of calibration examples is too small")
        low = system.predict_percentiles(nothing, one, bins, lower_percentiles=percentiles)
        high = system.predict_percentiles(nothing, one, bins, higher_percentiles=percentiles)
    table = np.where(PERCENTILES < 50, low, high)
    table = _bounded(table, error / spread, labels)
    at = np.log(np.maximum(horizon_years, 1e-6))
    return Calibration(
        log_horizon=np.array([np.median(at[labels == b]) for b in range(num_bins)]),
        longest_years=float(np.quantile(horizon_years, 0.99)),
        table_BQ=np.maximum.accumulate(table, axis=1),
        num_patients=len(np.unique(patient_index)),
        num_pairs=len(error),
    )


def _ranges(horizon_years: Floats, num_ranges: int) -> tuple[Floats, Integers]:
    num = len(horizon_years)
    wanted = max(num // _WANTED_PAIRS, min(num // _FEWEST_PAIRS, _FEW_RANGES))
    wanted = max(1, min(num_ranges, wanted))
    edges = np.unique(np.quantile(horizon_years, np.linspace(0, 1, wanted + 1)))
    if len(edges) < 2:
        edges = np.array([edges[0], edges[0] + 1.0])
    labels = np.clip(np.searchsorted(edges, horizon_years, side="right") - 1, 0, len(edges) - 2)
    used, labels = np.unique(labels, return_inverse=True)
    return np.append(edges[used], edges[-1]), labels


def _bounded(table: Floats, scores: Floats, labels: Integers) -> Floats:
    """Where errors are too few for a percentile, twice the largest error seen stands in."""
    for index in range(len(table)):
        largest = 2 * float(np.abs(scores[labels == index]).max())
        table[index] = np.clip(table[index], -largest, largest)
    return table

"""One forecast out of several experts': convex weights that change with the horizon.

Legend: ``R`` pairs, ``E`` experts, ``B`` horizons at which weights are fitted.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from medimind.forecasting.records.table import Floats

# Absolute errors below this (in spreads of the code) are rounded off, so that they have a slope.
_ROUNDING = 0.02
_FEWEST_PAIRS = 150


@dataclass(frozen=True, slots=True, eq=False)
class Stack:
    """Weights of the experts by horizon.

    Attributes:
        log_horizon: (B,) Logarithm of the horizons (years) at which weights were fitted, rising.
        weight_BE: (B, E) Not negative, each row's sum is 1; in between they are interpolated.
    """

    log_horizon: Floats
    weight_BE: Floats

    def weights(self, horizon_years: Floats) -> Floats:
        """(R, E) Weights at each horizon."""
        at = np.log(np.maximum(horizon_years, 1e-6))
        return np.column_stack(
            [np.interp(at, self.log_horizon, column) for column in self.weight_BE.T]
        )

    def combine(self, expert_RE: Floats, horizon_years: Floats) -> Floats:
        """(R,) The weighted forecast."""
        return np.einsum("re,re->r", self.weights(horizon_years), expert_RE)


def fit_stack(
    expert_RE: Floats, target: Floats, horizon_years: Floats, weight: Floats, *, num_horizons: int
) -> Stack:
    """The weights with the least absolute error on these out-of-fold forecasts."""
    at = np.log(np.maximum(horizon_years, 1e-6))
    num_bins = max(1, min(num_horizons, len(target) // _FEWEST_PAIRS))
    edges = np.quantile(at, np.linspace(0, 1, num_bins + 1)) if len(at) else np.zeros(2)
    places, rows_of_weights = [], []
    for low, high in pairwise(edges):
        inside = (at >= low) & (at <= high)
        if not inside.any():
            continue
        place = float(np.median(at[inside]))
        if places and place <= places[-1]:
            continue
        places.append(place)
        rows_of_weights.append(
            least_absolute_weights(expert_RE[inside], target[inside], weight[inside])
        )
    return Stack(log_horizon=np.array(places), weight_BE=np.array(rows_of_weights))


def least_absolute_weights(expert_RE: Floats, target: Floats, weight: Floats) -> Floats:
    """(E,) Convex weights with the least weighted absolute error, nearly.

    The absolute value is rounded to ``sqrt(r^2 + d^2)``, which is convex and smooth; its minimum is
    then compared with every expert alone, so the result is never worse than the best of them.
    """
    from scipy.optimize import minimize

    num_experts = expert_RE.shape[1]
    share = weight / weight.sum()
    alone = share @ np.abs(expert_RE - target[:, None])
    best = int(np.argmin(alone))

    def loss(weights: Floats) -> tuple[float, Floats]:
        error = expert_RE @ weights - target
        size = np.sqrt(error**2 + _ROUNDING**2)
        return float(share @ size), expert_RE.T @ (share * error / size)

    start = np.full(num_experts, 0.5 / num_experts)
    start[best] += 0.5
    found = minimize(
        loss,
        start,
        jac=True,
        method="SLSQP",
        bounds=[(0.0, 1.0)] * num_experts,
        constraints={
            "type": "eq",
            "fun": lambda weights: weights.sum() - 1.0,
            "jac": lambda weights: np.ones_like(weights),
        },
        options={"maxiter": 200, "ftol": 1e-7},
    )
    weights = np.maximum(found.x, 0.0)
    weights[weights < 1e-4] = 0.0
    weights = weights / weights.sum() if weights.sum() > 0 else start
    error = float(share @ np.abs(expert_RE @ weights - target))
    if error <= alone[best]:
        return weights
    return np.eye(num_experts)[best]

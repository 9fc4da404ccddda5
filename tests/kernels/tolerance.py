"""How far a kernel may be from float64, by dtype."""

from __future__ import annotations

import torch

FLOOR = {torch.float32: 3e-6, torch.float16: 1e-3, torch.bfloat16: 8e-3}
"""Relative error (of norms) that is always fine: a few roundings of the dtype."""


def relative_error(found: torch.Tensor, exact: torch.Tensor) -> float:
    """``|found - exact| / |exact|`` in float64; NaN counts as infinite."""
    difference = (found.double().cpu() - exact.double().cpu()).norm()
    error = float(difference / exact.double().cpu().norm().clamp(min=1e-30))
    return error if error == error else float("inf")


def assert_close(found: torch.Tensor, exact: torch.Tensor, reference: torch.Tensor) -> None:
    """The kernel is at most twice as far from float64 as the reference in its own dtype is."""
    limit = max(FLOOR[found.dtype], 2 * relative_error(reference, exact))
    error = relative_error(found, exact)
    assert error <= limit, f"relative error {error:.2e} over {limit:.2e}"

"""Whether Triton is there."""

from __future__ import annotations

import importlib.util
from functools import cache


@cache
def has_triton() -> bool:
    """Whether the package triton is installed (it has no build for Windows or macOS)."""
    return importlib.util.find_spec("triton") is not None

"""How much memory the run has needed at most."""

from __future__ import annotations

import sys

import torch


def peak_memory_gib(device: torch.device) -> float:
    """Peak GiB: what torch allocated on a card, the process's resident size on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    try:
        import resource
    except ImportError:  # Windows has no such module
        return 0.0
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)

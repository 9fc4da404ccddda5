"""How torch computes while a run lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


@contextmanager
def compute_settings(*, threads: int | None, device: torch.device) -> Iterator[None]:
    """Threads as asked for and, on a CPU, deterministic operations only; put back at the end."""
    memory: Any = torch.utils.deterministic
    threads_before = torch.get_num_threads()
    deterministic_before = torch.are_deterministic_algorithms_enabled()
    fill_before = memory.fill_uninitialized_memory
    try:
        if threads is not None:
            torch.set_num_threads(threads)
        if device.type == "cpu":
            memory.fill_uninitialized_memory = False
            torch.use_deterministic_algorithms(True)
        yield
    finally:
        torch.set_num_threads(threads_before)
        torch.use_deterministic_algorithms(deterministic_before)
        memory.fill_uninitialized_memory = fill_before

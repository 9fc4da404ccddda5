"""How torch computes while a run lasts."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from medimind.kernels.availability import FLASH4_VERSION, has_flash4


def computed_by(device: torch.device) -> dict[str, Any]:
    """What decides the last bits beside the settings: a continuation elsewhere is told of it."""
    found: dict[str, Any] = {
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "device": device.type,
    }
    if device.type == "cuda":
        found["device"] = torch.cuda.get_device_name(device)
        found["flash-attn-4"] = FLASH4_VERSION if has_flash4() else None
    return found


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

"""Whether Triton and FlashAttention-4 are there, and when Triton is used."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
from functools import cache

import torch

logger = logging.getLogger(__name__)

FLASH4_VERSION = "4.0.0b36"
"""Its gradients and bits were checked and timed; its functions change between releases."""


@cache
def has_triton() -> bool:
    """Whether the package triton is installed (it has no build for Windows or macOS)."""
    return importlib.util.find_spec("triton") is not None


@cache
def has_flash4() -> bool:
    """Whether the package flash-attn-4 is installed, at the version that is known to be right."""
    try:
        found = importlib.metadata.version("flash-attn-4")
    except importlib.metadata.PackageNotFoundError:
        return False
    if found != FLASH4_VERSION:
        logger.warning(
            "flash-attn-4 %s is installed, but attention was checked with %s only and runs without "
            "it; pip install 'medimind[hopper]' brings that one",
            found,
            FLASH4_VERSION,
        )
    return found == FLASH4_VERSION


def runs_triton(x: torch.Tensor) -> bool:
    """Whether an operation on this tensor is one Triton launch: on CUDA, without gradients."""
    return x.is_cuda and not torch.is_grad_enabled() and has_triton()

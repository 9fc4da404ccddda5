"""Two tiers: Triton's interpreter on the CPU, and the card where there is one."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

HAS_CARD = Path("/dev/nvidiactl").exists()


@pytest.fixture(
    params=[
        pytest.param("cpu", id="interpreter"),
        pytest.param("cuda", id="card", marks=pytest.mark.gpu),
    ]
)
def device(request):
    """Where a Triton kernel runs in this tier."""
    pytest.importorskip("triton")
    if request.param == "cuda" and not HAS_CARD:
        pytest.skip("no CUDA card")
    if request.param == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        pytest.skip("Triton's interpreter is off, as there is a card")
    return request.param


@pytest.fixture(params=["float32", "float16", "bfloat16"])
def dtype(request, device):
    """bf16 arithmetic is garbage in the interpreter, so only the card has it."""
    import torch

    if device == "cpu" and request.param == "bfloat16":
        pytest.skip("Triton's interpreter has no bf16 arithmetic")
    return getattr(torch, request.param)

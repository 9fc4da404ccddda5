"""Bytes that attention is counted with: what the tiles allocate, and the cards' rule."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from medimind.kernels.attention.footprint import (
    Card,
    Heads,
    backends,
    backward_bytes,
    kept_bytes,
)
from medimind.kernels.attention.forward import backend_for, choose_backend

LLAMA_8B = Heads(queries=32, keys=8, width=128, item=2)
H100, A100, RTX_3060, T4 = (
    Card((9, 0), 132),
    Card((8, 0), 108),
    Card((8, 6), 28),
    Card((7, 5), 40),
)
SHAPE = {"num_tokens": 4096, "segments": 8, "longest": 2048}


@pytest.fixture(autouse=True)
def _without_flash4(monkeypatch):
    """Whether it is installed; ``tests/unit/kernels/test_flash4.py`` is about it."""
    for module in ("footprint", "forward"):
        monkeypatch.setattr(f"medimind.kernels.attention.{module}.has_flash4", lambda: False)


class _Allocations(TorchDispatchMode):
    """Bytes of all tensors that torch makes within it."""

    def __init__(self):
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if function.overloadpacket in (torch.ops.aten.empty, torch.ops.aten.empty_like):
            self.bytes += result.nbytes
        return result


def test_tiles_allocate_what_is_counted(device, monkeypatch):
    from medimind.kernels.attention import tiled

    if device == "cpu":
        for name in ("FORWARD", "QUERY", "KEY"):
            monkeypatch.setattr(tiled, name, tiled.Tiling(rows=32, step=16, warps=4, stages=2))
    heads = Heads(queries=4, keys=2, width=64, item=2)
    tokens, offsets = 75, [0, 3, 40, 75]
    q, k, v, grad = (
        torch.randn(tokens, n, 64, dtype=torch.float16, device=device) for n in (4, 2, 2, 4)
    )
    rows = {
        "cu_seqlens": torch.tensor(offsets, dtype=torch.int32, device=device),
        "longest": 40,
    }
    with _Allocations() as forward:
        out, lse = tiled.tiled_forward(q, k, v, **rows)
    with _Allocations() as backward:
        tiled.tiled_backward(grad, q, k, v, out, lse, **rows)
    shape = {"num_tokens": tokens, "segments": 3, "longest": 40}
    assert forward.bytes - out.nbytes == kept_bytes("tiled", heads, **shape)
    assert backward.bytes == backward_bytes("tiled", heads, card=H100, **shape)


@pytest.mark.parametrize(
    ("card", "equal", "expected"),
    [
        (H100, True, ["cudnn"]),
        (H100, False, ["tiled"]),
        (H100, None, ["cudnn", "tiled"]),
        (Card((12, 0), 170), None, ["cudnn", "flash"]),
        (A100, None, ["flash", "flash"]),
        (T4, None, ["efficient", "efficient"]),
    ],
)
def test_a_card_that_is_not_here_takes_what_it_would(card, equal, expected):
    assert list(backends(card, LLAMA_8B, equal=equal)) == expected


@pytest.mark.parametrize("capability", [(7, 5), (8, 0), (9, 0), (12, 0)])
@pytest.mark.parametrize("equal", [True, False])
def test_the_rule_is_the_one_that_chooses(monkeypatch, capability, equal):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr("medimind.kernels.attention.forward.has_triton", lambda: True)
    for item, width in ((2, 128), (2, 64), (2, 96), (2, 256), (4, 128), (2, 100)):
        heads = Heads(8, 8, width, item)
        chosen = choose_backend(torch.device("cuda"), heads.dtype, head_dim=width, equal=equal)
        assert [chosen] == list(backends(Card(capability, 1), heads, equal=equal))
    # Without a compiler there are no tiles.
    rule = {"head_dim": 128, "equal": False, "triton": False}
    assert backend_for((9, 0), torch.bfloat16, **rule) == "flash"


def test_tiles_take_a_quarter_of_what_flash_does():
    tokens = 8192
    shape = {"num_tokens": tokens, "segments": 8, "longest": tokens}
    tiles, flash = (
        backward_bytes(name, LLAMA_8B, card=H100, **shape) for name in ("tiled", "flash")
    )
    assert tiles == tokens * (12_288 + 4 * 32)
    assert flash - tiles == pytest.approx(0.25 * 2**30, rel=0.07)


def test_flash_splits_the_sums_of_few_rows():
    """Until splits, rows and heads fill the multiprocessors."""
    taken = {
        rows: backward_bytes(
            "flash", LLAMA_8B, num_tokens=4096, segments=rows, longest=4096, card=A100
        )
        for rows in (1, 2, 4)
    }
    one = 4 * 32 * 128 * 4096  # the gradient of q in fp32
    assert taken[1] - taken[2] == pytest.approx(2 * one, rel=0.05)
    assert taken[2] - taken[4] == pytest.approx(one, rel=0.2)
    small = backward_bytes("flash", LLAMA_8B, card=RTX_3060, **SHAPE | {"segments": 1})
    assert small < taken[4]


def test_a_t4_has_room_for_the_longest_row_in_every_row():
    few, many = (
        backward_bytes("efficient", LLAMA_8B, card=T4, **SHAPE | {"segments": n}) for n in (8, 16)
    )
    assert many - few == 8 * 32 * (2048 + 256) * 128 * 4
    kept = kept_bytes("efficient", LLAMA_8B, **SHAPE)
    assert kept == 4 * 32 * 8 * 2048


def test_no_heads_are_repeated_where_each_has_its_own():
    alike = Heads(queries=32, keys=32, width=128, item=2)
    for name in ("flash", "efficient"):
        repeated = backward_bytes(name, alike, card=A100, **SHAPE)
        gradients = 2 * 4096 * 3 * 32 * 128
        whole = backward_bytes(name, LLAMA_8B, card=A100, **SHAPE)
        assert gradients < repeated < whole + gradients


def test_plain_attention_holds_scores():
    heads = Heads(queries=4, keys=4, width=100, item=2)
    shape = {"num_tokens": 1024, "segments": 2, "longest": 512}
    (backend,) = backends(H100, heads, equal=False)
    assert backend == "reference"
    assert kept_bytes(backend, heads, **shape) == 0
    assert backward_bytes(backend, heads, card=H100, **shape) > 2 * 4 * 1024 * 512

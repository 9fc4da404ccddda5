"""When FlashAttention-4 is taken, and how its package is called; a card holds it to float64."""

from __future__ import annotations

import importlib.metadata
import logging
from functools import partial
from types import SimpleNamespace

import pytest
import torch

from medimind.kernels import availability
from medimind.kernels.attention import flash4
from medimind.kernels.attention.backward import attention_backward
from medimind.kernels.attention.footprint import Card, Heads, backends, backward_bytes
from medimind.kernels.attention.forward import (
    FLASH4_FROM,
    FLASH4_LOOSE_FROM,
    Segments,
    attention_forward,
    backend_for,
    choose_backend,
    length_by_token,
)
from medimind.kernels.attention.reference import attention_backward_reference, attention_reference

LONG, SHORT = FLASH4_FROM, FLASH4_FROM - 1
H100 = Card((9, 0), 132)


@pytest.fixture(autouse=True)
def _forget():
    """What is known about the package is kept for the process."""
    known = (availability.has_flash4, flash4.loads, flash4._package)
    for remembered in known:
        remembered.cache_clear()
    yield
    for remembered in known:
        remembered.cache_clear()


def _installed(monkeypatch, version):
    def found(name):
        assert name == "flash-attn-4"
        if version is None:
            raise importlib.metadata.PackageNotFoundError(name)
        return version

    monkeypatch.setattr(importlib.metadata, "version", found)


@pytest.mark.parametrize(
    ("equal", "length", "fixed", "loose"),
    [
        (True, LONG, "flash4", "flash4_loose"),
        (True, SHORT, "tiled", "cudnn"),
        (False, LONG, "flash4", "flash4_loose"),
        (False, SHORT, "tiled", "flash4_loose"),
        (False, FLASH4_LOOSE_FROM - 1, "tiled", "tiled"),
    ],
)
def test_is_taken_where_it_was_faster(equal, length, fixed, loose):
    rule = {"head_dim": 128, "equal": equal, "mean_length": length, "triton": True}
    for deterministic, expected in ((True, fixed), (False, loose)):
        rule["deterministic"] = deterministic
        assert backend_for((9, 0), torch.bfloat16, **rule, flash4=True) == expected
        plain = "cudnn" if equal and not deterministic else "tiled"
        assert backend_for((9, 0), torch.bfloat16, **rule) == plain
        assert backend_for((9, 0), torch.float16, **rule | {"head_dim": 64}, flash4=True) == plain
        for capability in ((8, 0), (12, 0)):
            other = backend_for(capability, torch.bfloat16, **rule, flash4=True)
            assert "flash4" not in other
        assert "flash4" not in backend_for((9, 0), torch.float32, **rule, flash4=True)
    answers = backend_for((9, 0), torch.bfloat16, **rule, training=False, flash4=True)
    assert answers == ("cudnn" if equal else "flash")


def test_a_fixed_order_is_asked_of_gradients_alone():
    """cuDNN's forward pass has one."""
    rule = {"head_dim": 128, "equal": True, "deterministic": True, "triton": True}
    assert backend_for((9, 0), torch.bfloat16, **rule) == "tiled"
    assert backend_for((9, 0), torch.bfloat16, **rule, training=False) == "cudnn"


def test_without_triton_there_are_no_tiles_beside_it():
    rule = {"head_dim": 128, "equal": False, "deterministic": True}
    rule |= {"triton": False, "flash4": True}
    assert backend_for((9, 0), torch.bfloat16, mean_length=SHORT, **rule) == "flash"
    assert backend_for((9, 0), torch.bfloat16, mean_length=LONG, **rule) == "flash4"


def test_the_length_that_decides_is_that_of_a_tokens_segment():
    assert length_by_token([7]) == 7
    assert length_by_token([10, 30]) == 25
    assert length_by_token([]) == 0


def test_another_version_is_told_about_and_not_used(monkeypatch, caplog):
    _installed(monkeypatch, None)
    assert not availability.has_flash4()
    assert not caplog.records
    availability.has_flash4.cache_clear()
    _installed(monkeypatch, "4.1.0")
    assert not availability.has_flash4()
    assert not availability.has_flash4()  # told once
    (record,) = caplog.records
    assert "4.1.0" in record.getMessage()
    assert "pip install 'medimind[hopper]'" in record.getMessage()
    availability.has_flash4.cache_clear()
    _installed(monkeypatch, availability.FLASH4_VERSION)
    assert availability.has_flash4()


@pytest.mark.parametrize(
    "error", [ImportError("no libcute_dsl_runtime.so"), RuntimeError("driver")]
)
def test_a_package_that_does_not_load_is_told_about_and_not_used(monkeypatch, caplog, error):
    def fail(name):
        assert name == "flash_attn.cute.interface"
        raise error

    _installed(monkeypatch, availability.FLASH4_VERSION)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    monkeypatch.setattr("medimind.kernels.attention.forward.has_triton", lambda: True)
    monkeypatch.setattr(flash4.importlib, "import_module", fail)
    rule = {"head_dim": 128, "equal": False, "mean_length": LONG}
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            assert choose_backend(torch.device("cuda"), torch.bfloat16, **rule) == "tiled"
    (record,) = caplog.records  # told once
    assert str(error) in record.getMessage()


def test_is_not_loaded_for_cards_and_uses_it_is_not_for(monkeypatch):
    _installed(monkeypatch, availability.FLASH4_VERSION)
    monkeypatch.setattr(flash4.importlib, "import_module", pytest.fail)
    rule = {"head_dim": 128, "equal": True, "mean_length": LONG}
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    assert choose_backend(torch.device("cuda"), torch.bfloat16, **rule) == "flash"
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    answers = choose_backend(torch.device("cuda"), torch.bfloat16, **rule, training=False)
    assert answers == "cudnn"
    assert choose_backend(torch.device("cpu"), torch.bfloat16, **rule) == "reference"
    short = choose_backend(torch.device("cuda"), torch.bfloat16, **rule | {"mean_length": SHORT})
    assert short == "cudnn"


def test_plans_count_it_where_it_is_installed(monkeypatch):
    heads = Heads(queries=32, keys=8, width=128, item=2)
    _installed(monkeypatch, availability.FLASH4_VERSION)
    assert list(backends(H100, heads, equal=True)) == ["cudnn", "flash4_loose"]
    fixed = {"equal": False, "deterministic": True}
    assert list(backends(H100, heads, **fixed)) == ["tiled", "flash4"]
    assert list(backends(H100, heads, **fixed, longest=SHORT)) == ["tiled"]
    assert list(backends(Card((8, 0), 108), heads, equal=None)) == ["flash", "flash"]
    # As measured on an H100: gradients of 4,096 tokens in two segments of 1,796 and 2,300.
    shape = {"num_tokens": 4096, "segments": 2, "longest": 2300, "card": H100}
    assert backward_bytes("flash4", heads, **shape) / 2**20 == pytest.approx(149, abs=0.5)


def _package(calls):
    """The package's functions by the reference; tokens are told apart as it does."""

    def rows(x, kwargs):
        return x if "cu_seqlens_q" in kwargs else x.flatten(0, 1)

    def ends(q, kwargs):
        if "cu_seqlens_q" in kwargs:
            return kwargs["cu_seqlens_q"].tolist()
        return [q.shape[1] * i for i in range(q.shape[0] + 1)]

    def forward(q, k, v, *, causal, return_lse, **kwargs):
        assert causal
        assert return_lse
        calls.append(kwargs)
        out = attention_reference(*(rows(x, kwargs) for x in (q, k, v)), offsets=ends(q, kwargs))
        lse = torch.zeros(q.shape[-2], *q.shape[:-2])
        return out.view(q.shape), lse, None, None, None

    def backward(q, k, v, out, grad, lse, *, causal, deterministic, **kwargs):
        assert causal
        assert out.shape == q.shape
        calls.append({"deterministic": deterministic} | kwargs)
        inputs = [rows(x, kwargs) for x in (grad, q, k, v)]
        grads = attention_backward_reference(*inputs, offsets=ends(q, kwargs))
        return tuple(x.view(like.shape) for x, like in zip(grads, (q, k, v), strict=True))

    return SimpleNamespace(_flash_attn_fwd=forward, _flash_attn_bwd=backward)


@pytest.mark.parametrize("backend", ["flash4", "flash4_loose"])
@pytest.mark.parametrize(("offsets", "equal"), [((0, 3, 9, 9), None), ((0, 4, 8), 2)])
def test_segments_of_one_length_are_an_axis(monkeypatch, offsets, equal, backend):
    calls = []
    monkeypatch.setattr(flash4, "_package", lambda: _package(calls))
    tokens = offsets[-1]
    qkv, grad = torch.randn(tokens, 8, 16), torch.randn(tokens, 4, 16)
    q, k, v = qkv[:, :4], qkv[:, 4:6], qkv[:, 6:]
    segments = Segments(torch.tensor(offsets, dtype=torch.int32), 6, equal, offsets)
    out, saved = attention_forward(q, k, v, segments, backend=backend)
    grads = attention_backward(grad, q, k, v, out, saved, segments, backend=backend)
    expected = [attention_reference(q, k, v, offsets=offsets)]
    expected += attention_backward_reference(grad, q, k, v, offsets=offsets)
    for found, right in zip([out, *grads], expected, strict=True):
        assert found.shape == right.shape
        torch.testing.assert_close(found, right)
    assert calls[1].pop("deterministic") == (backend == "flash4")
    for known in calls:
        # The most that can come: a kernel is compiled for all lengths alike.
        assert known == {} if equal else known["max_seqlen_q"] == known["max_seqlen_k"] == tokens


@pytest.mark.parametrize("factor", [1.0, 1.1, float("nan")])
def test_is_tried_out_before_it_is_relied_on(monkeypatch, caplog, factor):
    package = _package([])
    right = package._flash_attn_fwd

    def forward(*args, **kwargs):
        out, *rest = right(*args, **kwargs)
        return out * factor, *rest

    package._flash_attn_fwd = forward
    monkeypatch.setattr(flash4, "_package", lambda: package)
    monkeypatch.setattr(flash4, "_try_out", partial(flash4._try_out, "cpu"))
    assert flash4.loads() == (factor == 1)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == (factor != 1)
    assert all("its output is wrong" in message for message in told)

"""Attention backends against the reference in float64."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from tolerance import assert_close

from medimind.kernels.attention import op
from medimind.kernels.attention.backward import attention_backward
from medimind.kernels.attention.forward import Segments, attention_forward, choose_backend
from medimind.kernels.attention.reference import attention_backward_reference, attention_reference

# Autograd's thread may be the first to call cuBLAS.
pytestmark = pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS")


def _compare(backend, offsets, *, dtype, device, heads=4, kv_heads=2, width=64, padded=0):
    generator = torch.Generator().manual_seed(0)
    total = offsets[-1]
    qkv = torch.randn(total, heads + 2 * kv_heads, width, generator=generator)
    grad = torch.randn(total, heads, width, generator=generator).to(dtype).to(device)
    qkv = qkv.to(dtype).to(device)
    q, k, v = qkv[:, :heads], qkv[:, heads : heads + kv_heads], qkv[:, heads + kv_heads :]
    lengths = {b - a for a, b in pairwise(offsets)}
    equal = len(offsets) - 1 if len(lengths) == 1 else None
    cu_seqlens = torch.tensor(list(offsets) + [total] * padded, dtype=torch.int32, device=device)
    segments = Segments(cu_seqlens, max(lengths), equal, tuple(offsets))
    out, saved = attention_forward(q, k, v, segments, backend=backend)
    grads = attention_backward(grad, q, k, v, out, saved, segments, backend=backend)
    plain = [attention_reference(q, k, v, offsets=offsets)]
    plain += attention_backward_reference(grad, q, k, v, offsets=offsets)
    wide = [x.double() for x in (grad, q, k, v)]
    exact = [attention_reference(*wide[1:], offsets=offsets)]
    exact += attention_backward_reference(*wide, offsets=offsets)
    for found, right, reference in zip([out, *grads], exact, plain, strict=True):
        assert_close(found, right, reference)
    return [out, *grads]


def test_reference_stays_within_segments():
    _compare("reference", [0, 3, 10, 11], dtype=torch.float32, device="cpu", width=8)
    cpu = torch.device("cpu")
    assert choose_backend(cpu, torch.bfloat16, head_dim=64, equal=True) == "reference"


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("backend", ["cudnn", "flash", "efficient"])
@pytest.mark.parametrize("offsets", [[0, 64, 128], [0, 128], [0, 3, 70, 71, 200]])
def test_on_the_card(backend, offsets, dtype):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA card")
    if backend == "cudnn" and len(offsets) > 3:
        pytest.skip("cuDNN takes segments of one length")
    if backend != "efficient" and torch.cuda.get_device_capability() < (9, 0):
        pytest.skip("the card is older")
    padded = 3 if len(offsets) > 3 else 0
    _compare(backend, offsets, dtype=dtype, device="cuda", padded=padded)


@pytest.mark.parametrize(
    ("offsets", "width"), [([0, 3, 40, 41, 75], 16), ([0, 33], 64), ([0, 16, 48], 16)]
)
def test_tiles_have_the_references_gradients(offsets, width, dtype, device, monkeypatch):
    from medimind.kernels.attention import tiled

    if device == "cuda" and dtype == torch.float32:
        pytest.skip("tiles of fp32 do not fit")
    if device == "cpu":  # small tiles: several of them in few tokens
        for name in ("FORWARD", "QUERY", "KEY"):
            monkeypatch.setattr(tiled, name, tiled.Tiling(rows=32, step=16, warps=4, stages=2))
    _compare("tiled", offsets, dtype=dtype, device=device, width=width, padded=2)


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_tiles_of_long_rows_have_the_same_bits_again(dtype):
    if not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("no Hopper")
    offsets = [0, 577, 1272, 1273, 2500]
    shape = {"heads": 8, "kv_heads": 2, "width": 128, "dtype": dtype, "device": "cuda"}
    assert choose_backend(torch.device("cuda"), dtype, head_dim=128, equal=False) == "tiled"
    first, again = (_compare("tiled", offsets, **shape, padded=3) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


def test_offsets_are_copied_to_the_device_once_for_all_layers():
    place = torch.device("cpu")
    segments = op._segments((0, 4, 8), 4, place)
    assert op._segments((0, 4, 8), 4, place) is segments
    assert (segments.equal, segments.cu_seqlens.tolist()) == (2, [0, 4, 8])
    assert op._segments((0, 4, 9), 5, place).equal is None

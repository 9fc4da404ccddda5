"""Attention backends against the reference in float64."""

from __future__ import annotations

from itertools import accumulate, pairwise

import pytest
import torch
from tolerance import assert_close

from medimind.kernels.attention import op
from medimind.kernels.attention.backward import attention_backward
from medimind.kernels.attention.footprint import Heads, backward_bytes, card_of, kept_bytes
from medimind.kernels.attention.forward import Segments, attention_forward, choose_backend
from medimind.kernels.attention.reference import attention_backward_reference, attention_reference
from medimind.kernels.availability import has_flash4

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


def _needs_flash4():
    if not torch.cuda.is_available() or torch.cuda.get_device_capability()[0] != 9:
        pytest.skip("no Hopper")
    if not has_flash4():
        pytest.skip("flash-attn-4 is not installed: pip install 'medimind[hopper]'")


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS")  # autograd's thread is the first
@pytest.mark.parametrize(
    ("heads", "kv_heads", "dtype"),
    [(8, 2, torch.bfloat16), (8, 2, torch.float16), (3, 3, torch.bfloat16)],  # each is compiled
)
def test_flash4_has_the_references_gradients_and_the_same_bits_again(heads, kv_heads, dtype):
    _needs_flash4()
    shape = {"heads": heads, "kv_heads": kv_heads, "width": 128, "dtype": dtype, "device": "cuda"}
    rows = (([0, 577, 1272, 1273, 2500], 3), ([0, 3, 70, 71, 200], 0), ([0, 300, 600], 0))
    for offsets, padded in rows:
        first, again = (_compare("flash4", offsets, **shape, padded=padded) for _ in range(2))
        assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS")  # autograd's thread is the first
@pytest.mark.parametrize("offsets", [[0, 300, 600], [0, 577, 1272, 1273, 1500]])
def test_flash4_sums_in_any_order_too(offsets):
    _needs_flash4()
    shape = {"heads": 8, "kv_heads": 2, "width": 128, "dtype": torch.bfloat16, "device": "cuda"}
    _compare("flash4_loose", offsets, **shape)


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS")  # autograd's thread is the first
def test_a_graph_with_flash4_serves_other_segments():
    _needs_flash4()
    tokens, capacity = 1500, 8
    qkv = torch.randn(tokens, 12, 128, device="cuda", dtype=torch.bfloat16)
    grad = torch.randn(tokens, 8, 128, device="cuda", dtype=torch.bfloat16)
    q, k, v = qkv[:, :8], qkv[:, 8:10], qkv[:, 10:]
    offsets = torch.zeros(1 + capacity, dtype=torch.int32, device="cuda")
    segments = Segments(offsets, tokens, None, ())

    def run():
        out, saved = attention_forward(q, k, v, segments, backend="flash4")
        return [out, *attention_backward(grad, q, k, v, out, saved, segments, backend="flash4")]

    def divide(lengths):
        ends = list(accumulate(lengths, initial=0))
        offsets.copy_(torch.tensor(ends + [tokens] * (1 + capacity - len(ends))))
        return ends

    divide([700, 800])
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        run()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        found = run()
    for lengths in ([700, 800], [1500], [1, 640, 1, 128, 730], [64] * 7 + [1052]):
        ends = divide(lengths)
        for x in found:
            x.fill_(torch.nan)
        graph.replay()
        torch.cuda.synchronize()
        plain = [attention_reference(q, k, v, offsets=ends)]
        plain += attention_backward_reference(grad, q, k, v, offsets=ends)
        wide = [x.double() for x in (grad, q, k, v)]
        exact = [attention_reference(*wide[1:], offsets=ends)]
        exact += attention_backward_reference(*wide, offsets=ends)
        for one, right, reference in zip(found, exact, plain, strict=True):
            assert_close(one, right, reference)


@pytest.mark.gpu
@pytest.mark.parametrize("equal", [None, 2])
def test_flash4_allocates_what_is_counted(equal):
    _needs_flash4()
    tokens, count = 4096, equal or 5
    q, k, v, grad = (
        torch.randn(tokens, n, 128, dtype=torch.bfloat16, device="cuda") for n in (8, 2, 2, 8)
    )
    ends = [0, 2048, 4096] if equal else [0, 1000, 2100, 4096, 4096, 4096]
    segments = Segments(torch.tensor(ends, dtype=torch.int32, device="cuda"), tokens, equal, ())
    out, saved = attention_forward(q, k, v, segments, backend="flash4")
    inputs = (grad, q, k, v, out, saved, segments)
    attention_backward(*inputs, backend="flash4")  # compiled
    shape = {"num_tokens": tokens, "segments": count, "longest": tokens // (equal or 1)}
    heads = Heads(queries=8, keys=2, width=128, item=2)
    assert saved[0].nbytes == kept_bytes("flash4", heads, **shape)
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_stats()["requested_bytes.all.current"]
    attention_backward(*inputs, backend="flash4")
    taken = torch.cuda.memory_stats()["requested_bytes.all.peak"] - before
    counted = backward_bytes("flash4", heads, card=card_of(torch.device("cuda")), **shape)
    assert 0.9 * counted < taken <= counted


def test_offsets_are_copied_to_the_device_once_for_all_layers():
    place = torch.device("cpu")
    segments = op._segments((0, 4, 8), 4, place)
    assert op._segments((0, 4, 8), 4, place) is segments
    assert (segments.equal, segments.cu_seqlens.tolist()) == (2, [0, 4, 8])
    assert op._segments((0, 4, 9), 5, place).equal is None

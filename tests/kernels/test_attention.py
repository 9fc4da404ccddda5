"""Attention backends against the reference in float64."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from tolerance import assert_close

from medimind.kernels.attention import op
from medimind.kernels.attention.backward import attention_backward, attention_backward_parts
from medimind.kernels.attention.forward import Segments, attention_forward, choose_backend
from medimind.kernels.attention.groups import SegmentGroup, make_groups, split_segments
from medimind.kernels.attention.reference import attention_backward_reference, attention_reference


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


def test_reference_stays_within_segments():
    _compare("reference", [0, 3, 10, 11], dtype=torch.float32, device="cpu", width=8)
    cpu = torch.device("cpu")
    assert choose_backend(cpu, torch.bfloat16, head_dim=64, equal=True) == "reference"


@pytest.mark.gpu
@pytest.mark.filterwarnings("ignore:Attempting to run cuBLAS")  # autograd's thread is the first
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


def test_groups_where_one_launch_leaves_multiprocessors_idle():
    assert split_segments(8, 32, 132) == [(0, 4), (4, 8)]
    assert split_segments(9, 32, 132) == [(0, 3), (3, 6), (6, 9)]
    assert split_segments(4, 32, 132) == []  # cut finer as it is
    assert split_segments(13, 32, 132) == []  # blocks enough
    assert split_segments(3, 200, 132) == []
    assert make_groups((0, 3, 9), num_heads=1, device=torch.device("cpu")) == ()


@pytest.mark.gpu
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_groups_have_the_gradients_of_all_at_once(dtype):
    if not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0):
        pytest.skip("no card with flash attention")
    offsets, heads, kv_heads, device = (0, 130, 133, 400, 401), 4, 2, torch.device("cuda")
    generator = torch.Generator().manual_seed(0)
    qkv = torch.randn(401, 8, 64, generator=generator).to(dtype).to(device)
    grad = torch.randn(401, heads, 64, generator=generator).to(dtype).to(device)
    q, k, v = qkv[:, :heads], qkv[:, heads : heads + kv_heads], qkv[:, heads + kv_heads :]
    groups = tuple(
        SegmentGroup(slice(a, b), torch.tensor(own, dtype=torch.int32, device=device), 300)
        for a, b, own in ((0, 133, [0, 130, 133]), (133, 401, [0, 267, 268]))
    )
    cu_seqlens = torch.tensor(offsets, dtype=torch.int32, device=device)
    segments = Segments(cu_seqlens, 300, None, offsets, groups)
    out, saved = attention_forward(q, k, v, segments, backend="flash")
    plain = attention_backward_reference(grad, q, k, v, offsets=offsets)
    exact = attention_backward_reference(*(x.double() for x in (grad, q, k, v)), offsets=offsets)
    found = [
        attention_backward_parts(grad, q, k, v, out, saved, segments, backend="flash")
        for _ in range(2)
    ]
    for (rows, *grads), (_, *again) in zip(*found, strict=True):
        for tensor, same, right, usual in zip(grads, again, exact, plain, strict=True):
            assert_close(tensor, right[rows], usual[rows])
            assert torch.equal(tensor, same)


def test_offsets_are_copied_to_the_device_once_for_all_layers():
    place = torch.device("cpu")
    segments = op._segments((0, 4, 8), 4, place)
    assert op._segments((0, 4, 8), 4, place) is segments
    assert (segments.equal, segments.cu_seqlens.tolist()) == (2, [0, 4, 8])
    assert op._segments((0, 4, 9), 5, place).equal is None

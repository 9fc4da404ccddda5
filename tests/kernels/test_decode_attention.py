"""One new token per row over a cache: Triton against the reference, on odd shapes."""

from __future__ import annotations

import pytest
import torch
from tolerance import assert_close

from medimind.kernels.decode_attention import reference

# rows, query heads, key/value heads, head width, capacity, length, starts
SHAPES = [
    (1, 1, 1, 8, 3, 1, [0]),
    (2, 4, 2, 16, 200, 131, [0, 70]),
    (3, 9, 3, 64, 70, 70, [0, 69, 33]),
    (5, 6, 1, 24, 300, 257, [0, 1, 200, 255, 256]),
]


@pytest.fixture
def kernels(device):
    from medimind.kernels.decode_attention import forward

    return forward


def _random(*shape, dtype, device, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype).to(device)


def _inputs(shape, dtype, device):
    rows, heads, kv, width, capacity, length, starts = shape
    qkv = _random(rows, heads + 2 * kv, width, dtype=dtype, device=device, seed=0)
    keys = _random(rows, kv, capacity, width, dtype=dtype, device=device, seed=1)
    values = _random(rows, kv, capacity, width, dtype=dtype, device=device, seed=2)
    # What lies beyond the columns in use, or before a row's start, must never be looked at.
    keys[:, :, length:] = values[:, :, length:] = torch.nan
    for row, start in enumerate(starts):
        keys[row, :, :start] = torch.nan
        values[row, :, :start] = torch.nan
    start_B = torch.tensor(starts, device=device)
    return qkv, keys, values, start_B, torch.tensor(length, dtype=torch.int32, device=device)


@pytest.mark.parametrize("shape", SHAPES)
def test_attention_looks_at_each_rows_own_columns(kernels, shape, dtype, device):
    qkv, keys, values, start_B, length = _inputs(shape, dtype, device)
    rows, heads, _, width = shape[:4]
    q = qkv[:, :heads]
    wide = torch.full((rows, heads * width + 3), torch.nan, dtype=dtype, device=device)
    kernels.decode_attention(q, keys, values, start_B, length, out_BQ=wide[:, : heads * width])
    clean = [torch.nan_to_num(x) for x in (keys, values)]
    found = [torch.empty(rows, heads * width, dtype=kind) for kind in (dtype, torch.float64)]
    for out, kind in zip(found, (dtype, torch.float64), strict=True):
        inputs = [x.to("cpu", kind) for x in (q, *clean)]
        reference.decode_attention(*inputs, start_B.cpu(), length.cpu(), out_BQ=out)
    assert_close(wide[:, : heads * width], found[1], found[0])
    assert wide[:, heads * width :].isnan().all()


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_token_is_turned_and_stored(kernels, shape, norm, dtype, device):
    qkv, keys, values, _, length = _inputs(shape, dtype, device)
    rows, heads, _, width = shape[:4]
    angle = torch.rand(rows, width // 2, generator=torch.Generator().manual_seed(3)) * 6
    cos, sin = (x.repeat(1, 2).to(dtype).to(device) for x in (angle.cos(), angle.sin()))
    gains = [_random(width, dtype=dtype, device=device, seed=s) if norm else None for s in (4, 5)]
    expected = [x.cpu().clone() for x in (qkv, keys, values)]
    reference.store_token(
        expected[0],
        cos.cpu(),
        sin.cpu(),
        *expected[1:],
        length.cpu(),
        q_norm_K=None if gains[0] is None else gains[0].cpu(),
        k_norm_K=None if gains[1] is None else gains[1].cpu(),
        eps=1e-5,
    )
    kernels.store_token(
        qkv, cos, sin, keys, values, length, q_norm_K=gains[0], k_norm_K=gains[1], eps=1e-5
    )
    assert_close(qkv[:, :heads], expected[0][:, :heads], expected[0][:, :heads])
    column = int(length) - 1
    assert_close(keys[:, :, column], expected[1][:, :, column], expected[1][:, :, column])
    assert torch.equal(values[:, :, column].cpu(), expected[2][:, :, column])
    for found, before in zip((keys, values), expected[1:], strict=True):
        others = [c for c in range(shape[4]) if c != column]
        assert torch.equal(found[:, :, others].cpu().isnan(), before[:, :, others].isnan())
        assert torch.equal(
            torch.nan_to_num(found[:, :, others].cpu()), torch.nan_to_num(before[:, :, others])
        )


@pytest.mark.parametrize(("heads", "width"), [(1, 8), (3, 24), (8, 64)])
def test_prompts_go_to_their_rows_and_columns(heads, width, dtype, device):
    from medimind.kernels.decode_attention.prompts import store_prompts

    row = torch.tensor([0, 0, 1, 1, 1, 2], device=device)
    column = torch.tensor([1, 2, 0, 1, 2, 2], device=device)
    wide = _random(6, 2 * heads + 1, width, dtype=dtype, device=device, seed=0)
    keys, values = wide[:, :heads], wide[:, heads : 2 * heads]
    stores = [torch.full((4, heads, 5, width), torch.nan, dtype=dtype, device=device)[:3]]
    stores.append(stores[0].clone())
    expected = [store.clone() for store in stores]
    for store, x in zip(expected, (keys, values), strict=True):
        store[row, :, column] = x
    store_prompts(keys, values, row, column, *stores)
    for found, wanted in zip(stores, expected, strict=True):
        assert torch.equal(found.isnan(), wanted.isnan())
        assert torch.equal(torch.nan_to_num(found), torch.nan_to_num(wanted))

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


def _angles(positions, width, dtype, device):
    angle = torch.rand(positions, width // 2, generator=torch.Generator().manual_seed(3)) * 6
    return [x.repeat(1, 2).to(dtype).to(device) for x in (angle.cos(), angle.sin())]


@pytest.mark.parametrize(("norm", "parts"), [(False, 0), (True, 3)])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_token_is_stored_and_looks_at_its_rows_own_columns(
    kernels, shape, norm, parts, dtype, device
):
    qkv, keys, values, start_B, length = _inputs(shape, dtype, device)
    rows, heads, _, width, capacity = shape[:5]
    sums = None
    if parts:
        sums = _random(parts, rows, qkv[0].numel(), dtype=torch.float32, device=device, seed=6)
        qkv.fill_(torch.nan)
    gains = [_random(width, dtype=dtype, device=device, seed=s) if norm else None for s in (4, 5)]
    angles = _angles(capacity, width, dtype, device)
    column, results = int(length) - 1, []
    for kind in (dtype, torch.float64):
        # What lies beyond is NaN and would reach the reference's sums as 0 x NaN.
        caches = [torch.nan_to_num(x).to("cpu", kind) for x in (keys, values)]
        out = torch.empty(rows, heads * width, dtype=kind)
        reference.attend_token(
            qkv.to("cpu", kind),
            *(x.to("cpu", kind) for x in angles),
            *caches,
            start_B.cpu(),
            length.cpu(),
            out_BQ=out,
            q_norm_K=None if gains[0] is None else gains[0].to("cpu", kind),
            k_norm_K=None if gains[1] is None else gains[1].to("cpu", kind),
            eps=1e-5,
            parts_SBQ=None if sums is None else sums.cpu(),
        )
        results.append((out, *(x[:, :, column] for x in caches)))
    before = [x.clone() for x in (keys, values)]
    wide = torch.full((rows, heads * width + 3), torch.nan, dtype=dtype, device=device)
    kernels.attend_token(
        qkv,
        *angles,
        keys,
        values,
        start_B,
        length,
        out_BQ=wide[:, : heads * width],
        q_norm_K=gains[0],
        k_norm_K=gains[1],
        eps=1e-5,
        parts_SBQ=sums,
    )
    found = (wide[:, : heads * width], keys[:, :, column], values[:, :, column])
    for one, plain, exact in zip(found, *results, strict=True):
        assert_close(one, exact, plain)
    assert wide[:, heads * width :].isnan().all()
    others = [c for c in range(capacity) if c != column]
    for now, then in zip((keys, values), before, strict=True):
        assert torch.equal(now[:, :, others].isnan(), then[:, :, others].isnan())
        for x in (now, then):
            x.nan_to_num_()
        assert torch.equal(now[:, :, others], then[:, :, others])


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

"""Products with NF4 weights: Triton against the reference and float64, on odd shapes."""

from __future__ import annotations

import pytest
import torch
from tolerance import assert_close

from medimind.kernels.nf4 import dequantize_nf4, quantize_nf4
from medimind.kernels.nf4_linear import reference
from medimind.kernels.nf4_linear.reference import can_join, nf4_parts

# rows, inputs, outputs of each part
SHAPES = [
    (1, 64, (5,)),
    (1, 1024, (96, 32, 33)),
    (3, 192, (70, 64)),
    (16, 576, (192, 64, 64)),
    (33, 128, (64, 1, 200)),
    (128, 320, (257,)),
    (130, 256, (128, 64)),
]


@pytest.fixture
def kernels(device):
    from medimind.kernels.nf4_linear import forward

    return forward


def _random(*shape, dtype, seed):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype)


def _weights(inputs, outputs, *, double_quantization=True):
    """Rows of quite different sizes, so that a wrong scale shows."""
    found = []
    for seed, size in enumerate(outputs):
        weight = _random(size, inputs, dtype=torch.float32, seed=10 + seed) / inputs**0.5
        weight *= torch.linspace(0.1, 3, size)[:, None]
        found.append(quantize_nf4(weight, double_quantization=double_quantization))
    return found


def _exact(x, weights, update, out_dtype=torch.float64):
    """With the weights as they are rounded in the dtype of x, in float64."""
    dense = torch.cat([dequantize_nf4(w, dtype=x.dtype) for w in weights]).double()
    out = x.double() @ dense.t()
    if update is not None:
        out += update[0].double() @ update[1].double().t()
    return out.to(out_dtype)


def _check(kernels, shape, dtype, device, *, columns=0, double_quantization=True, tiles=None):
    rows, inputs, outputs = shape
    weights = _weights(inputs, outputs, double_quantization=double_quantization)
    wide = _random(rows, inputs + 64, dtype=dtype, seed=0)
    x = wide[:, :inputs]
    update = None
    if columns:
        b = _random(sum(outputs), columns + 8, dtype=dtype, seed=2)[:, :columns]
        update = (_random(rows, columns, dtype=dtype, seed=1), b)
    exact = _exact(x, weights, update)
    plain = reference.nf4_linear(
        x, nf4_parts(weights), update=update, out_BO=torch.empty(exact.shape, dtype=dtype)
    )
    parts = nf4_parts([weight.to(device) for weight in weights])
    out = torch.full((rows, sum(outputs) + 3), torch.nan, dtype=dtype, device=device)
    kernels.nf4_linear(
        wide.to(device)[:, :inputs],
        parts,
        update=None if update is None else tuple(part.to(device) for part in update),
        out_BO=out[:, : sum(outputs)],
        **({} if tiles is None else {"tiles": tiles}),
    )
    assert_close(out[:, : sum(outputs)], exact, plain)
    assert out[:, sum(outputs) :].isnan().all()


@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_the_references(kernels, shape, dtype, device):
    _check(kernels, shape, dtype, device)


@pytest.mark.parametrize("columns", [64, 192])
@pytest.mark.parametrize("shape", [SHAPES[1], SHAPES[2]])
def test_adapters_are_added(kernels, shape, columns, dtype, device):
    _check(kernels, shape, dtype, device, columns=columns)


def test_scales_that_are_not_quantised(kernels, dtype, device):
    _check(kernels, SHAPES[2], dtype, device, double_quantization=False)


@pytest.mark.parametrize("rows", [1, 50, 130])
def test_stretches_are_added_up_whatever_their_number(kernels, rows, dtype, device):
    for programs in (1, 1000):
        tiles = kernels.tiles_for(rows)
        tiles = type(tiles)(tiles.rows, tiles.outputs, 64, programs, tiles.warps, tiles.stages)
        _check(kernels, (rows, 320, (100, 40)), dtype, device, columns=64, tiles=tiles)


def test_outputs_are_the_same_each_time(kernels, dtype, device):
    x = _random(4, 1024, dtype=dtype, seed=0).to(device)
    parts = nf4_parts([w.to(device) for w in _weights(1024, (100,))])
    outs = [kernels.nf4_linear(x, parts, out_BO=x.new_empty(4, 100)) for _ in range(5)]
    assert all(torch.equal(out, outs[0]) for out in outs)


def test_every_code_and_place_is_decoded_bit_for_bit(kernels, dtype, device):
    """The product with rows of the unit matrix gives the weights themselves."""
    weights = _weights(128, (130,))
    assert len(torch.cat([weights[0].packed_P >> 4, weights[0].packed_P & 15]).unique()) == 16
    unit = torch.eye(128, dtype=dtype, device=device)
    out = torch.full((128, 130), torch.nan, dtype=dtype, device=device)
    kernels.nf4_linear(unit, nf4_parts([weights[0].to(device)]), out_BO=out)
    assert torch.equal(out.cpu().t(), dequantize_nf4(weights[0], dtype=dtype))


def test_what_has_no_joint_product_is_refused():
    good = _weights(128, (3, 4))
    assert can_join(good)
    others = [
        [],
        [*good, *good],
        [good[0], torch.zeros(3, 128)],
        [good[0], *_weights(64, (3,))],
        [quantize_nf4(torch.randn(4, 96))],
        [quantize_nf4(torch.randn(4, 128), block_size=128)],
    ]
    for weights in others:
        assert not can_join(weights)
    with pytest.raises(ValueError, match="no joint product"):
        nf4_parts(_weights(96, (3,)))

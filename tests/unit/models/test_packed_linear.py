"""Weights in a layout for few rows: the same products, a limit of memory, new weights seen."""

from __future__ import annotations

import logging

import pytest
import torch
from torch.nn.functional import linear

from medimind.models import packed_linear
from medimind.models.decode_step import DecodeStep
from medimind.models.generate import generate
from medimind.models.packed_linear import (
    PackedWeights,
    available_bytes,
    half_exponent,
    pack_linear,
    packed_weights,
)

SHAPES = [(1, 1, 1), (1, 7, 3), (3, 64, 65), (8, 576, 960), (17, 100, 33)]
"""Rows, inputs, outputs."""


def _random(*shape, seed, dtype=torch.float32):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype).float()


def _close_to_exact(found, x, weight, bias):
    exact = linear(x.double(), weight.double(), None if bias is None else bias.double())
    plain = (linear(x, weight, bias).double() - exact).norm()
    limit = max(2 * float(plain), 1e-6 * float(exact.norm()))
    assert float((found.double() - exact).norm()) <= limit


@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("published", [torch.bfloat16, torch.float16, torch.float32])
@pytest.mark.parametrize("shape", SHAPES)
def test_products_are_as_near_to_exact_ones_as_plain_products(shape, published, with_bias):
    rows, inputs, outputs = shape
    x = _random(rows, inputs, seed=0)
    weight = _random(outputs, inputs, seed=1, dtype=published) * 2**-7
    bias = _random(outputs, seed=2) if with_bias else None
    packed = pack_linear(weight, bias)
    if packed is None:
        pytest.skip("this build of torch has no other layout")
    _close_to_exact(packed(x), x, weight, bias)
    weight_bytes = {"half": 2, "float32": 4}[packed.layout] * weight.numel()
    assert packed.num_bytes == weight_bytes


def test_half_precision_is_taken_only_where_it_holds_every_value():
    weight = _random(40, 30, seed=0, dtype=torch.bfloat16)
    exponent = half_exponent(weight)
    assert exponent is not None
    scaled = weight * 2.0**exponent
    assert torch.equal(scaled.half().float(), scaled)
    assert half_exponent(weight * 2.0**-60) == exponent + 60
    assert half_exponent(_random(40, 30, seed=0)) is None
    wide = weight.clone()
    wide[0, 0] = 2.0**-40 * 1.0078125  # more digits than a subnormal number of that size has
    assert half_exponent(wide) is None
    for bad in (0.0, torch.inf, torch.nan):
        assert half_exponent(torch.full((2, 2), bad)) is None


def test_weights_that_were_filled_anew_are_packed_anew():
    weights = PackedWeights(most_bytes=1 << 20)
    x, weight, bias = _random(2, 33, seed=0), _random(7, 33, seed=1), _random(7, seed=2)
    first = weights.product(weight, bias)
    assert first is not None
    assert weights.product(weight, bias) is first
    weight[6, 32] += 0.125  # the last of an odd number of values
    second = weights.product(weight, bias)
    _close_to_exact(second(x), x, weight, bias)
    bias.mul_(2)
    _close_to_exact(weights.product(weight, bias)(x), x, weight, bias)
    assert sum(weights.layouts.values()) == 1


def test_memory_is_limited_and_what_finds_no_room_is_told_once(caplog):
    weight = _random(16, 16, seed=0, dtype=torch.bfloat16)
    weights = PackedWeights(most_bytes=2 * weight.nbytes - 1)
    with caplog.at_level(logging.WARNING):
        found = [weights.product(w, None) for w in (weight, *weight.repeat(3, 1, 1) * 2)]
    packed = [product for product in found if product is not None]
    assert 0 < len(packed) < len(found)
    assert sum(product.num_bytes for product in packed) <= 2 * weight.nbytes - 1
    assert weights.num_without_room == len(found) - len(packed)
    assert weights.layouts[None] == weights.num_without_room
    assert caplog.text.count("too little memory") == 1


def test_other_dtypes_are_multiplied_as_they_are():
    weights = PackedWeights(most_bytes=1 << 20)
    assert weights.product(_random(4, 4, seed=0).bfloat16(), None) is None
    assert weights.num_without_room == 0


def test_without_other_layouts_the_outputs_are_the_same(tiny, monkeypatch):
    prompts = [[5, 17, 240, 3, 99], [41], [7, 8, 9]]
    found = generate(tiny, prompts, max_new_tokens=12)
    counts = packed_weights(tiny.decoder).layouts
    assert sum(counts.values()) == 4 * len(tiny.decoder.layers) + 1
    tiny.decoder.generation = None
    monkeypatch.setattr(packed_linear, "pack_linear", lambda weight, bias: None)
    assert generate(tiny, prompts, max_new_tokens=12) == found
    assert set(packed_weights(tiny.decoder).layouts) == {None}


def test_a_new_head_is_seen_by_the_next_call(tiny):
    step = DecodeStep.of(tiny.decoder)
    hidden = _random(2, tiny.architecture.hidden_size, seed=0)
    torch.testing.assert_close(step.logits(hidden), tiny.decoder.logits(hidden))
    tiny.decoder.head.mul_(-1)
    after = DecodeStep.of(tiny.decoder).logits(hidden)
    torch.testing.assert_close(after, tiny.decoder.logits(hidden))


@pytest.mark.parametrize(
    ("most", "used", "left"), [("max", "5", None), ("1000", "400", 600), ("1000", "4000", 0)]
)
def test_a_containers_limit_counts(tmp_path, monkeypatch, most, used, left):
    (tmp_path / "memory.max").write_text(most)
    (tmp_path / "memory.current").write_text(used)
    monkeypatch.setattr(packed_linear, "_CONTROL_GROUP", tmp_path)
    monkeypatch.setattr(packed_linear, "_free_in_machine", lambda: 10_000)
    assert available_bytes() == (10_000 if left is None else left)

"""Row-scaled e4m3 products: Triton against the reference and against exact products."""

from __future__ import annotations

import pytest
import torch
from tolerance import relative_error

from medimind.kernels.backend import REFERENCE, triton_kernels
from medimind.kernels.fp8 import reference

E4M3 = torch.float8_e4m3fn


@pytest.fixture
def kernels(device):
    if device == "cuda" and torch.cuda.get_device_capability() < (8, 9):
        pytest.skip("the card has no fp8")
    from medimind.kernels.fp8 import forward

    return forward


def _random(*shape, dtype, device, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator).to(dtype).to(device)


def _quantized(quantize, x):
    out = torch.empty(x.shape, dtype=E4M3, device=x.device)
    return quantize(x, out_TI=out, scale_T=torch.full((len(x),), torch.nan, device=x.device))


@pytest.mark.parametrize("shape", [(1, 16), (3, 48), (5, 1000), (2, 4099)])
def test_rows_are_scaled_to_the_largest_value(kernels, shape, dtype, device):
    wide = _random(shape[0], shape[1] + 16, dtype=dtype, device=device, seed=0) * 3
    x = wide[:, : shape[1]]
    x[0] = 0
    values, scale = _quantized(kernels.quantize_rows, x)
    expected, expected_scale = _quantized(reference.quantize_rows, x.cpu())
    torch.testing.assert_close(scale.cpu(), expected_scale, rtol=1e-6, atol=0)
    # The interpreter loses the carry where rounding goes on to the next power of 2.
    same = values.cpu().float() == expected.float()
    assert same.float().mean() > (0.97 if device == "cpu" else 0.99)
    assert values.float().abs().max() <= reference.FP8_MAX
    assert not values[0].float().any()


def _swiglu(module, wide, width, **place):
    return module.swiglu_forward(wide[:, :width], wide[:, width + 16 :], **place)


def _norm(module, wide, width, *, out, codes):
    weight, total = wide[0, -width:] + 1, torch.empty_like(out)
    module.lora_norm_forward(
        wide[:, :width],
        weight,
        eps=1e-5,
        residual_TD=wide[:, width : 2 * width],
        normed_out=out,
        sum_out=total,
        codes=codes,
    )


def _norm_back(module, wide, width, *, out, codes):
    rstd = torch.ones(len(wide), device=wide.device)
    x, weight = wide[:, width : 2 * width], wide[0, -width:] + 1
    module.rms_norm_backward(wide[:, :width], x, weight, rstd, out=out, codes=codes)


@pytest.mark.parametrize("shape", [(1, 16), (3, 48), (5, 1000), (20, 300)])
@pytest.mark.parametrize("make", [_swiglu, _norm, _norm_back])
def test_rows_made_with_their_codes_are_those_of_two_steps(kernels, make, shape, dtype, device):
    rows, width = shape
    wide = _random(rows, 2 * width + 16, dtype=dtype, device=device, seed=0) * 2
    wide[-1] = 0
    found = []
    for module in (triton_kernels(), REFERENCE):
        out = torch.full(shape, torch.nan, dtype=dtype, device=device)
        values = torch.empty(shape, dtype=E4M3, device=device)
        scale = torch.full((rows,), torch.nan, device=device)
        make(module, wide, width, out=out, codes=(values, scale))
        found.append((out, values, scale))
    (out, values, scale), (expected, _, expected_scale) = found
    assert relative_error(out, expected) < (1e-6 if dtype == torch.float32 else 6e-3)
    torch.testing.assert_close(scale, expected_scale, rtol=1e-2, atol=0)
    again, right = _quantized(kernels.quantize_rows, out)  # of its own rows: the same codes
    assert torch.equal(values.view(torch.uint8), again.view(torch.uint8))
    assert torch.equal(scale, right)
    plain = torch.full_like(out, torch.nan)
    make(triton_kernels(), wide, width, out=plain, codes=None)
    assert relative_error(plain, out) < (1e-6 if dtype == torch.float32 else 6e-3)


@pytest.mark.parametrize("shape", [(1, 16, 16), (130, 48, 272), (5, 640, 64), (257, 144, 528)])
@pytest.mark.parametrize("update", [0, 32, 192], ids=str)
def test_product_is_the_references(kernels, shape, update, dtype, device):
    if device == "cuda" and dtype == torch.float32:
        pytest.skip("tiles of fp32 outputs do not fit beside those of the inputs")
    rows, inputs, outputs = shape
    x = _quantized(
        reference.quantize_rows, _random(rows, inputs, dtype=dtype, device="cpu", seed=0)
    )
    w = _quantized(
        reference.quantize_rows, _random(outputs, inputs, dtype=dtype, device="cpu", seed=1)
    )
    extra = None
    if update:
        t = _random(rows, update, dtype=dtype, device="cpu", seed=2)
        extra = (t, _random(outputs, update, dtype=dtype, device="cpu", seed=3))
    expected = reference.fp8_linear(
        *x, *w, update=extra, out_TO=torch.empty(rows, outputs, dtype=torch.float64)
    )
    wide = torch.full((rows, outputs + 16), torch.nan, dtype=dtype, device=device)
    kernels.fp8_linear(
        *(part.to(device) for part in (*x, *w)),
        update=None if extra is None else tuple(part.to(device) for part in extra),
        out_TO=wide[:, :outputs],
    )
    # Tensor cores sum fp8 products with 14 bits or more.
    limit = {torch.float32: 1e-3, torch.float16: 2e-3, torch.bfloat16: 6e-3}[dtype]
    assert relative_error(wide[:, :outputs], expected) < limit
    assert wide[:, outputs:].isnan().all()


def test_quantisation_costs_a_few_percent():
    x, w = (_random(64, 512, dtype=torch.float32, device="cpu", seed=seed) for seed in (0, 1))
    out = torch.empty(64, 64)
    reference.fp8_linear(
        *_quantized(reference.quantize_rows, x), *_quantized(reference.quantize_rows, w), out_TO=out
    )
    assert 0.01 < relative_error(out, x.double() @ w.double().t()) < 0.05

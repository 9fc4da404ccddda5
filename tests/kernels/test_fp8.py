"""Row-scaled e4m3 products: Triton against the reference and against exact products."""

from __future__ import annotations

import pytest
import torch
from tolerance import relative_error

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


@pytest.mark.parametrize("shape", [(1, 16), (3, 48), (5, 1000)])
def test_gated_rows_are_those_of_two_steps(kernels, shape, dtype, device):
    wide = _random(shape[0], 2 * shape[1] + 16, dtype=dtype, device=device, seed=0) * 2
    wide[0] = 0
    gate, up = wide[:, : shape[1]], wide[:, shape[1] + 16 :]
    found = [torch.full(shape, torch.nan, dtype=dtype, device=device) for _ in range(2)]
    values = [torch.empty(shape, dtype=E4M3, device=device) for _ in range(2)]
    scales = [torch.full((shape[0],), torch.nan, device=device) for _ in range(2)]
    for index, module in enumerate((kernels, reference)):
        place = {"z_out": found[index], "out_TI": values[index], "scale_T": scales[index]}
        module.swiglu_rows(gate, up, **place)
    assert relative_error(found[0], found[1]) < (1e-6 if dtype == torch.float32 else 4e-3)
    torch.testing.assert_close(scales[0], scales[1], rtol=1e-2, atol=0)
    again = _quantized(kernels.quantize_rows, found[0])[0]  # of its own z: the same codes
    assert torch.equal(values[0].view(torch.uint8), again.view(torch.uint8))


@pytest.mark.parametrize("shape", [(1, 16, 16), (130, 48, 272), (5, 640, 64), (257, 144, 528)])
@pytest.mark.parametrize("update", [False, True])
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
        t = _random(rows, 32, dtype=dtype, device="cpu", seed=2)
        extra = (t, _random(outputs, 32, dtype=dtype, device="cpu", seed=3))
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

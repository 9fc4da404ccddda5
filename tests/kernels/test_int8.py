"""Tables in 8 bits: rounding, products and gradients stretch by stretch, rows from anywhere."""

from __future__ import annotations

import pytest
import torch

from medimind.kernels.cross_entropy.op import cross_entropy_with_gradient, linear_token_losses
from medimind.kernels.embedding import gather_rows
from medimind.kernels.int8 import dequantize_int8, op, quantize_int8, table_gradient, table_product

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
DTYPES = [torch.float32, torch.float16, torch.bfloat16]
EPSILON = {torch.float32: 1e-6, torch.float16: 2e-3, torch.bfloat16: 1e-2}


@pytest.fixture(params=DEVICES)
def device(request):
    if request.param == "cuda" and not torch.cuda.is_available():
        pytest.skip("no CUDA card")
    return request.param


@pytest.fixture(params=[7, 100, 1 << 25], autouse=True)
def stretch(request, monkeypatch):
    monkeypatch.setattr(op, "STRETCH", request.param)


def _table(rows, columns, *, device, dtype=torch.float32):
    generator = torch.Generator().manual_seed(rows)
    values = torch.randn(rows, columns, generator=generator)
    return (values * torch.rand(rows, 1, generator=generator)).to(dtype).to(device)


@pytest.mark.parametrize("dtype", DTYPES)
def test_no_value_moves_by_more_than_half_a_step(device, dtype):
    table = _table(13, 9, device=device, dtype=dtype)
    table[3] = 0
    found = quantize_int8(table)
    step = table.float().abs().amax(dim=1, keepdim=True) / 127
    error = (dequantize_int8(found, dtype=torch.float32) - table.float()).abs()
    assert (error <= 0.5001 * step).all()
    assert found.values_VD.abs().max() == 127
    assert found.nbytes == 13 * 9 + 4 * 13


@pytest.mark.parametrize("dtype", DTYPES)
def test_products_and_gradients_are_those_of_the_dequantised_table(device, dtype):
    table = quantize_int8(_table(29, 16, device=device))
    dense = dequantize_int8(table, dtype=torch.float64)
    hidden = torch.randn(5, 16, device=device).to(dtype)
    grad = torch.randn(5, 29, device=device).to(dtype)
    exact = dense.to(dtype).double()  # the factor as it is multiplied
    for found, expected in (
        (table_product(hidden, table), hidden.double() @ exact.t()),
        (table_gradient(grad, table), grad.double() @ exact),
    ):
        assert (found.double() - expected).norm() <= EPSILON[dtype] * expected.norm()
    out = torch.full((5, 29), torch.nan, device=device, dtype=dtype)
    assert table_product(hidden, table, out=out) is out
    assert torch.equal(out, table_product(hidden, table))
    out = torch.full((5, 16), torch.nan, device=device, dtype=dtype)
    assert table_gradient(grad, table, out=out) is out
    assert torch.equal(out, table_gradient(grad, table))


@pytest.mark.parametrize("on_host", [False, True])
@pytest.mark.parametrize("dtype", DTYPES)
def test_rows_are_dequantised_wherever_they_lie(device, dtype, on_host):
    table = quantize_int8(_table(29, 16, device=device))
    index = torch.randint(0, 29, (11,), device=device)
    expected = dequantize_int8(table, dtype=dtype)[index]
    if on_host:
        values = table.values_VD.cpu()
        values = values.pin_memory() if device == "cuda" else values
        table = type(table)(values, table.scale_V, table.dtype)
    out = torch.full((11, 16), torch.nan, device=device, dtype=dtype)
    gather_rows(table, index, out=out)
    assert torch.equal(out, expected)


def test_losses_are_those_of_the_dequantised_head(device):
    table = quantize_int8(_table(29, 16, device=device))
    dense = dequantize_int8(table, dtype=torch.float32)
    hidden, targets = torch.randn(9, 16, device=device), torch.randint(0, 29, (9,), device=device)
    loss, grad = cross_entropy_with_gradient(hidden, table, targets, chunk_size=4)
    expected_loss, expected_grad = cross_entropy_with_gradient(hidden, dense, targets)
    assert torch.allclose(loss, expected_loss, rtol=1e-5)
    assert torch.allclose(grad, expected_grad, rtol=1e-4, atol=1e-6)
    losses = linear_token_losses(hidden, table, targets)
    assert torch.allclose(losses.sum(), expected_loss, rtol=1e-5)

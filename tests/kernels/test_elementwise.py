"""RMSNorm, rotary and SwiGLU in Triton against their references, on odd shapes."""

from __future__ import annotations

import pytest
import torch
from tolerance import assert_close

from medimind.kernels.rms_norm import reference as norm_reference
from medimind.kernels.rotary import reference as rotary_reference
from medimind.kernels.swiglu import reference as swiglu_reference


@pytest.fixture
def norm(device):
    from medimind.kernels.rms_norm import backward, forward

    return forward.rms_norm_forward, backward.rms_norm_backward


def _random(*shape, dtype, device, seed=0, scale=1.0):
    generator = torch.Generator().manual_seed(seed)
    return (torch.randn(*shape, generator=generator) * scale).to(dtype).to(device)


def _nan(shape, like):
    return torch.full(shape, torch.nan, dtype=like.dtype, device=like.device)


def _double(*tensors):
    return [None if tensor is None else tensor.double() for tensor in tensors]


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (5, 64), (2, 576), (7, 1000)])
@pytest.mark.parametrize("add", [False, True])
def test_rms_norm_forward(norm, shape, add, dtype, device):
    x = _random(*shape, dtype=dtype, device=device)
    weight = _random(shape[1], dtype=dtype, device=device, seed=1)
    residual = _random(*shape, dtype=dtype, device=device, seed=2) if add else None
    wide = _nan((shape[0], shape[1] + 5), x)
    normed, total, rstd = norm[0](
        x, weight, eps=1e-5, residual_TD=residual, normed_out=wide[:, : shape[1]]
    )
    reference = norm_reference.rms_norm_forward(x, weight, eps=1e-5, residual_TD=residual)
    # The norm is of the sum as rounded to its dtype, so the exact one starts there too.
    exact = norm_reference.rms_norm_forward(*_double(reference[1], weight), eps=1e-5)
    assert torch.equal(total, reference[1])
    assert_close(normed, exact[0], reference[0])
    assert_close(rstd, exact[2], reference[2])
    assert wide[:, shape[1] :].isnan().all()


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (5, 64), (2, 576), (7, 1000)])
@pytest.mark.parametrize("add", [False, True])
def test_rms_norm_backward(norm, shape, add, dtype, device):
    x = _random(*shape, dtype=dtype, device=device)
    weight = _random(shape[1], dtype=dtype, device=device, seed=1)
    grad = _random(*shape, dtype=dtype, device=device, seed=2)
    beside = _random(*shape, dtype=dtype, device=device, seed=3) if add else None
    rstd = norm_reference.rms_norm_forward(x, weight, eps=1e-5)[2]
    reference = norm_reference.rms_norm_backward(grad, x, weight, rstd, grad_sum_TD=beside)
    leaf = x.double().requires_grad_()
    normed = norm_reference.rms_norm_forward(leaf, weight.double(), eps=1e-5)[0]
    (exact,) = torch.autograd.grad(normed, leaf, grad.double())
    if beside is not None:
        exact = exact + beside.double()
    found = norm[1](grad, x, weight, rstd, grad_sum_TD=beside, out=_nan(shape, x))
    assert_close(found, exact, reference)
    if beside is not None:  # in place of the gradient beside it
        norm[1](grad, x, weight, rstd, grad_sum_TD=beside, out=beside)
        assert_close(beside, exact, reference)


@pytest.mark.parametrize("shape", [(1, 1, 2), (5, 3, 6), (4, 9, 64), (3, 18, 20)])
@pytest.mark.parametrize("inverse", [False, True])
def test_rotary(shape, inverse, dtype, device):
    from medimind.kernels.rotary.backward import rotate_backward
    from medimind.kernels.rotary.forward import rotate

    tokens, heads, width = shape
    joined = _random(tokens, heads + 2, width, dtype=dtype, device=device)
    x = joined[:, :heads]
    angle = _random(tokens, width // 2, dtype=torch.float32, device=device, seed=1).repeat(1, 2)
    cos, sin = angle.cos().to(dtype), angle.sin().to(dtype)
    exact = rotary_reference.rotate(*_double(x, cos, sin), inverse=inverse)
    reference = rotary_reference.rotate(x, cos, sin, inverse=inverse)
    assert_close(rotate(x, cos, sin, inverse=inverse, out=_nan(shape, x)), exact, reference)
    beside = joined[:, heads:].clone()
    rotate(x, cos, sin, inverse=inverse, out=x)
    assert_close(x, exact, reference)
    assert torch.equal(joined[:, heads:], beside)
    if inverse:
        leaf = _random(*shape, dtype=torch.float64, device=device).requires_grad_()
        turned = rotary_reference.rotate(leaf, *_double(cos, sin))
        grad = _random(*shape, dtype=dtype, device=device, seed=5)
        (exact,) = torch.autograd.grad(turned, leaf, grad.double())
        reference = rotary_reference.rotate(grad, cos, sin, inverse=True)
        assert_close(rotate_backward(grad, cos, sin), exact, reference)


@pytest.mark.parametrize("shape", [(1, 1, 1, 2), (3, 6, 2, 16), (5, 20, 17, 12), (4, 32, 8, 128)])
def test_gradients_turned_back_side_by_side(shape, dtype, device):
    from medimind.kernels.rotary.backward import rotate_back

    tokens, heads, kv_heads, width = shape
    q = _random(tokens, heads + 1, width, dtype=dtype, device=device)[:, 1:]
    k, v = (
        _random(kv_heads, tokens, width, dtype=dtype, device=device, seed=seed).transpose(0, 1)
        for seed in (1, 2)
    )
    angle = _random(tokens, width // 2, dtype=torch.float32, device=device, seed=3).repeat(1, 2)
    angles = (angle.cos().to(dtype), angle.sin().to(dtype))
    columns = (heads + 2 * kv_heads) * width
    expected = torch.empty(tokens, columns, dtype=torch.float64, device=device)
    rotary_reference.rotate_back(*_double(q, k, v, *angles), out_TQ=expected)
    reference = _nan((tokens, columns), q)
    rotary_reference.rotate_back(q, k, v, *angles, out_TQ=reference)
    found = _nan((tokens, columns + 3), q)[:, :columns]
    rotate_back(q, k, v, *angles, out_TQ=found)
    assert_close(found, expected, reference)


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (5, 64), (2, 2100)])
@pytest.mark.parametrize("keep_value", [False, True])
def test_swiglu(shape, keep_value, dtype, device):
    from medimind.kernels.swiglu.backward import swiglu_backward
    from medimind.kernels.swiglu.forward import swiglu_forward

    rows, columns = shape
    joined = _random(rows, 2 * columns, dtype=dtype, device=device, scale=2.0)
    gate, up = joined[:, :columns], joined[:, columns:]
    reference = swiglu_reference.swiglu_forward(gate, up)
    leaves = [tensor.double().requires_grad_() for tensor in (gate, up)]
    exact = swiglu_reference.swiglu_forward(*leaves)
    assert_close(swiglu_forward(gate, up, out=_nan(shape, gate)), exact.detach(), reference)

    grad = _random(*shape, dtype=dtype, device=device, seed=1)
    exact_grads = torch.autograd.grad(exact, leaves, grad.double())
    references = [torch.empty_like(gate), torch.empty_like(gate)]
    swiglu_reference.swiglu_backward(
        grad, gate, up, grad_gate_out=references[0], grad_up_out=references[1]
    )
    value = _nan(shape, gate) if keep_value else None
    swiglu_backward(grad, gate, up, grad_gate_out=gate, grad_up_out=up, value_out=value)
    assert_close(gate, exact_grads[0], references[0])
    assert_close(up, exact_grads[1], references[1])
    if value is not None:
        assert_close(value, exact.detach(), reference)

"""Joined projections against autograd over the plain formula, and the kernels of their blocks."""

from __future__ import annotations

import pytest
import torch

from medimind.kernels.embedding import gather_rows
from medimind.kernels.lora_linear.backward import (
    a_gradient,
    b_gradient,
    input_gradient,
    update_gradient,
)
from medimind.kernels.lora_linear.forward import joined_forward
from medimind.kernels.lora_linear.joined import (
    AdapterPart,
    can_stack,
    joined_input,
    num_adapter_columns,
    split_input,
    write_adapters,
)
from medimind.kernels.lora_linear.reference import lora_linear_reference

TOKENS, INPUTS, RANK, SCALING = 11, 20, 3, 0.5
SIZES = (8, 5, 6)


def _parts(sizes=SIZES, rank=RANK):
    parts, row = [], 0
    for index, size in enumerate(sizes):
        columns = slice(index * rank, (index + 1) * rank)
        parts.append(AdapterPart(slice(row, row + size), columns, SCALING))
        row += size
    return parts


@pytest.mark.parametrize("joined", [True, False])
@pytest.mark.parametrize("bias", [True, False])
def test_forward_and_gradients(joined, bias):
    torch.manual_seed(0)
    double = torch.float64
    parts, total = _parts(), sum(SIZES)
    x = torch.randn(TOKENS, INPUTS, dtype=double, requires_grad=True)
    weights = [torch.randn(n, INPUTS, dtype=double) for n in SIZES]
    biases = [torch.randn(n, dtype=double) if bias else None for n in SIZES]
    a = [torch.randn(RANK, INPUTS, dtype=double, requires_grad=True) for _ in SIZES]
    b = [torch.randn(n, RANK, dtype=double, requires_grad=True) for n in SIZES]
    expected = torch.cat(
        [
            lora_linear_reference(x, w, c, a_RI, b_OR, scaling=SCALING)
            for w, c, a_RI, b_OR in zip(weights, biases, a, b, strict=True)
        ],
        dim=1,
    )
    grad = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, [x, *a, *b], grad)

    columns = num_adapter_columns([RANK] * 3, has_bias=bias)
    weight = torch.zeros(total, INPUTS + columns, dtype=double)
    weight[:, :INPUTS] = torch.cat(weights)
    bias_column = 3 * RANK if bias else None
    if bias:
        weight[:, INPUTS + 3 * RANK] = torch.cat(biases)
    write_adapters(weight, [m.detach() for m in b], parts, num_inputs=INPUTS)

    def buffer():
        if not joined:
            return split_input(torch.zeros_like(x), columns, bias_column=bias_column)
        return joined_input(
            TOKENS,
            INPUTS,
            columns,
            bias_column=bias_column,
            dtype=double,
            device=torch.device("cpu"),
        )

    inputs, grad_inputs = buffer(), buffer()
    inputs.x_TI.copy_(x.detach())
    a_EI = torch.cat([m.detach() for m in a])
    out = torch.full_like(expected, torch.nan)
    joined_forward(inputs, weight, a_EI, out=out)
    assert torch.allclose(out, expected)
    grad_a = torch.zeros_like(a_EI)
    grad_b = [torch.zeros_like(m) for m in b]
    input_gradient(grad, weight, grad_inputs=grad_inputs)
    a_gradient(grad_inputs, inputs, grad_a)
    b_gradient(grad, inputs, parts, grad_b, None)
    update_gradient(grad_inputs, a_EI)
    found = [grad_inputs.x_TI, *grad_a.split(RANK), *grad_b]
    for one, other in zip(found, expected_grads, strict=True):
        assert torch.allclose(one, other)


def test_what_can_be_stacked():
    assert can_stack(_parts(), sum(SIZES))
    assert not can_stack(_parts(), sum(SIZES) + 1)
    assert not can_stack([], 0)
    assert not can_stack(_parts()[1:], sum(SIZES))


@pytest.mark.parametrize("sizes", [(70,), (64, 33), SIZES])
def test_blocks(sizes, dtype, device):
    from medimind.kernels.lora_linear.blocks import add_blocks, write_blocks

    torch.manual_seed(0)
    parts, total = _parts(sizes), sum(sizes)
    joint = torch.randn(total, 16, device=device)
    before = torch.randn(total, RANK, device=device)
    found = before.clone()
    add_blocks(joint, found, parts)
    for part in parts:
        expected = before[part.rows] + SCALING * joint[part.rows, part.columns]
        assert torch.allclose(found[part.rows], expected)

    stacked = torch.randn(2, total, RANK, device=device).to(dtype)
    weight = torch.zeros(2, total, 7 + 16, dtype=dtype, device=device)
    write_blocks(stacked, weight, parts, num_inputs=7)
    expected = torch.zeros_like(weight)
    for layer in range(2):
        blocks = [stacked[layer, part.rows] for part in parts]
        write_adapters(expected[layer], blocks, parts, num_inputs=7)
    assert torch.equal(weight, expected)


def test_gathered_rows(dtype, device):
    from medimind.kernels.embedding.forward import gather_rows_triton

    table = torch.randn(9, 70).to(dtype)
    index = torch.tensor([3, 0, 8, 3])
    out = torch.full((4, 70), torch.nan, dtype=dtype, device=device)
    gather_rows_triton(table.to(device), index.to(device), out=out)
    assert torch.equal(out.cpu(), table[index])
    out.fill_(torch.nan)
    gather_rows(table, index.to(device), out=out)
    assert torch.equal(out.cpu(), table[index])
    if device == "cuda":
        out.fill_(torch.nan)
        gather_rows(table.pin_memory(), index.to(device), out=out)
        assert torch.equal(out.cpu(), table[index])

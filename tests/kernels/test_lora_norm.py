"""The norm with the update before it in Triton against the reference in float64."""

from __future__ import annotations

import pytest
import torch
from tolerance import assert_close

from medimind.kernels.lora_norm import reference

SHAPES = [(1, 1, 1), (17, 5, 3), (40, 200, 16), (33, 300, 20), (20, 70, 65)]
"""Rows, width, rank."""


def _drawing(*, dtype, device):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape, scale=1.0):
        return (torch.randn(*shape, generator=generator) * scale).to(dtype).to(device)

    return draw


def _compare(function, naive, tensors, outputs, *, dtype, **options):
    """Outputs start as NaN; what must not be written keeps it."""

    def run(do, like):
        given = {name: tensor.to(like) for name, tensor in tensors.items()}
        found = {
            name: torch.full(shape, float("nan"), dtype=like, device=given["weight_D"].device)
            for name, shape in outputs.items()
        }
        result = do(**given, **found, **options)
        return {**found, **({} if result is None else {"rstd_T": result})}

    exact, plain, found = run(naive, torch.float64), run(naive, dtype), run(function, dtype)
    for name, tensor in found.items():
        untouched = exact[name].isnan()
        assert torch.equal(tensor.isnan(), untouched), name
        kept = [values[~untouched] for values in (tensor, exact[name], plain[name])]
        assert_close(*kept)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("with_update", [True, False])
def test_forward(shape, with_update, dtype, device):
    from medimind.kernels.lora_norm.forward import lora_norm_forward

    rows, width, rank = shape
    draw = _drawing(dtype=dtype, device=device)
    tensors = {
        "product_TD": draw(rows, width + 3)[:, :width],
        "weight_D": draw(width) + 1,
        "residual_TD": draw(rows, width + 2)[:, :width],
    }
    outputs = {"normed_out": (rows, width), "sum_out": (rows, width)}
    if with_update:
        tensors |= {"t_TR": draw(rows, rank + 1)[:, :rank], "b_DR": draw(width, rank)}
        tensors["bias_D"] = draw(width)
        outputs["t_out"] = (rows, rank)
    _compare(
        lora_norm_forward,
        reference.lora_norm_forward,
        tensors,
        outputs,
        dtype=dtype,
        eps=1e-5,
        scaling=0.5,
    )


def test_an_update_too_small_to_count_moves_nothing(dtype, device):
    """Sums of rounded numbers often lie between two others: such an update must not decide."""
    from medimind.kernels.lora_norm.forward import lora_norm_forward

    if dtype == torch.float32:
        pytest.skip("nothing is too small to count")
    draw = _drawing(dtype=dtype, device=device)
    product, weight, residual = draw(40, 200), draw(200) + 1, draw(40, 200, scale=8.0)
    product = torch.where(product.abs() < 0.25, 0.25, product)
    t, b = torch.ones_like(product[:, :16]), torch.full_like(product[:16].t().contiguous(), 1e-6)
    sums = []
    for function in (lora_norm_forward, reference.lora_norm_forward):
        for update in ({}, {"t_TR": t, "b_DR": b}):
            sums.append(torch.empty_like(product))
            given = {"eps": 1e-5, "residual_TD": residual, "normed_out": torch.empty_like(product)}
            function(product, weight, **given, sum_out=sums[-1], **update)
    assert all(torch.equal(found, sums[0]) for found in sums)
    found = sums[0].cpu().abs()
    between = product.cpu().float() + residual.cpu().float() - sums[0].cpu().float()
    step = torch.nextafter(found, torch.full_like(found, float("inf"))) - found
    assert (between.abs() == step.float() / 2).any()  # such places are among them

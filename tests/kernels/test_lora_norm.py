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

"""SwiGLU with the adapters' skinny products in Triton against the reference in float64."""

from __future__ import annotations

import pytest
import torch
from tolerance import assert_close

from medimind.kernels.lora_swiglu import reference


def _tensors(rows, columns, rank, *, dtype, device):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape, scale=1.0):
        return (torch.randn(*shape, generator=generator) * scale).to(dtype).to(device)

    return {
        "grad_TI": draw(rows, columns),
        "grad_t_TR": draw(rows, rank + 3)[:, :rank],
        "gate_up_TJ": draw(rows, 2 * columns, scale=2.0),
        "t_TS": draw(rows, 2 * rank + 5)[:, : 2 * rank],
        "a_RI": draw(rank, columns),
    }


SHAPES = [(1, 1, 1), (96, 32, 16), (17, 5, 3), (40, 200, 16), (70, 130, 20), (64, 64, 16)]


@pytest.mark.parametrize("shape", SHAPES)
def test_backward(shape, dtype, device):
    from medimind.kernels.lora_swiglu.backward import lora_swiglu_backward

    _, columns, rank = shape
    tensors = _tensors(*shape, dtype=dtype, device=device)

    def run(function, like, wide):
        copies = {name: tensor.to(like).clone() for name, tensor in tensors.items()}
        grads = {
            "grad_a_RI": torch.ones(rank, columns, dtype=wide, device=device),
            "grad_b_gate_IR": torch.ones(columns, rank, dtype=wide, device=device),
            "grad_b_up_IR": torch.ones(columns, rank, dtype=wide, device=device),
        }
        function(**copies, scaling=0.5, **grads)
        return {"gate_up": copies["gate_up_TJ"], **grads}

    exact = run(reference.lora_swiglu_backward, torch.float64, torch.float64)
    plain = run(reference.lora_swiglu_backward, dtype, torch.float32)
    found = run(lora_swiglu_backward, dtype, torch.float32)
    for name, tensor in found.items():
        assert_close(tensor, exact[name], plain[name].to(tensor.dtype))

"""Joined LoRA projections, forward: one skinny GEMM for all A, one GEMM for everything else.

Shapes and buffers: see ``joined.py``.
"""

from __future__ import annotations

import torch

from medimind.kernels.lora_linear.joined import InputBuffer


def project_down(inputs: InputBuffer, a_EI: torch.Tensor) -> None:
    """``t = x A^T`` of all adapters, into the buffer's columns (the first ``E`` rows of A)."""
    if a_EI.shape[0]:
        torch.mm(inputs.x_TI, a_EI.t(), out=inputs.t_TE[:, : a_EI.shape[0]])


def joined_forward(
    inputs: InputBuffer, weight_OX: torch.Tensor, a_EI: torch.Tensor | None, *, out: torch.Tensor
) -> torch.Tensor:
    """Outputs of all projections that share the input, ``(T, O)``.

    Args:
        inputs: Holds ``x``; its adapter columns are filled here.
        weight_OX: Base weights, with the adapters' and the bias' columns after them.
        a_EI: The A matrices above each other, without padding; ``None`` where the adapter columns
            are filled already.
        out: Where the outputs go.
    """
    if a_EI is not None:
        project_down(inputs, a_EI)
    if inputs.joined_TX is not None:
        return torch.mm(inputs.joined_TX, weight_OX.t(), out=out)
    num_inputs = inputs.x_TI.shape[1]
    torch.mm(inputs.x_TI, weight_OX[:, :num_inputs].t(), out=out)
    return out.addmm_(inputs.t_TE, weight_OX[:, num_inputs:].t())

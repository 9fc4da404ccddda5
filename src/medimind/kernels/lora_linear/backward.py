"""Joined LoRA projections, backward; base weights are frozen.

With ``y = x W^T + s (x A^T) B^T`` and ``g`` the gradient of ``y``:

```
t  = x A^T                 from the forward pass
gt = s g B                 comes out of the base GEMM, as the weight's last columns are s B
gA = gt^T x                fp32
gB = s g^T t               fp32; for all projections at once, of which only their own blocks count
gx = g W + gt A
```

Shapes and buffers: see ``joined.py``.
"""

from __future__ import annotations

import torch

from medimind.kernels.availability import has_triton
from medimind.kernels.lora_linear.joined import AdapterPart, InputBuffer


def input_gradient(
    grad_TO: torch.Tensor,
    weight_OX: torch.Tensor,
    *,
    grad_inputs: InputBuffer,
    needs_input: bool = True,
) -> None:
    """``g W`` and ``gt``; where ``x`` needs no gradient (the first layer), ``gt`` alone.

    Args:
        grad_TO: Gradient of the outputs.
        weight_OX: As in the forward pass.
        grad_inputs: Where they go.
        needs_input: Whether ``g W`` is wanted.
    """
    num_inputs = grad_inputs.x_TI.shape[1]
    if needs_input and grad_inputs.joined_TX is not None:
        torch.mm(grad_TO, weight_OX, out=grad_inputs.joined_TX)
        return
    torch.mm(grad_TO, weight_OX[:, num_inputs:], out=grad_inputs.t_TE)
    if needs_input:
        torch.mm(grad_TO, weight_OX[:, :num_inputs], out=grad_inputs.x_TI)


def a_gradient(grad_inputs: InputBuffer, inputs: InputBuffer, grad_a_EI: torch.Tensor) -> None:
    """Adds ``gt^T x`` to the fp32 gradients of all A."""
    num_columns = grad_a_EI.shape[0]
    if num_columns:
        addmm_fp32_(grad_a_EI, grad_inputs.t_TE[:, :num_columns].t(), inputs.x_TI)


def b_gradient(
    grad_TO: torch.Tensor,
    inputs: InputBuffer,
    parts: list[AdapterPart],
    grad_b: list[torch.Tensor],
    grad_b_OR: torch.Tensor | None,
) -> None:
    """Adds ``s g^T t`` to the fp32 gradient of each B.

    Args:
        grad_TO: Gradient of the outputs.
        inputs: With the adapters' columns.
        parts: Places of the adapters.
        grad_b: fp32 for each adapter.
        grad_b_OR: All of them above each other, where they have one shape and one scaling.
    """
    if len(parts) == 1:
        (part,) = parts
        t_TR = inputs.t_TE[:, part.columns]
        addmm_fp32_(grad_b[0], grad_TO[:, part.rows].t(), t_TR, alpha=part.scaling)
        return
    if not parts:
        return
    joint_OE = _mm_fp32(grad_TO.t(), inputs.t_TE[:, : parts[-1].columns.stop])
    if grad_b_OR is not None and grad_TO.is_cuda and has_triton():
        from medimind.kernels.lora_linear.blocks import add_blocks

        add_blocks(joint_OE, grad_b_OR, parts)
        return
    for grad, part in zip(grad_b, parts, strict=True):
        grad.add_(joint_OE[part.rows, part.columns], alpha=part.scaling)


def update_gradient(grad_inputs: InputBuffer, a_EI: torch.Tensor) -> None:
    """Adds ``gt A`` to ``gx``."""
    if a_EI.shape[0]:
        grad_inputs.x_TI.addmm_(grad_inputs.t_TE[:, : a_EI.shape[0]], a_EI)


def addmm_fp32_(
    total: torch.Tensor, left: torch.Tensor, right: torch.Tensor, *, alpha: float = 1.0
) -> None:
    """``total += alpha * left @ right`` with 16-bit factors and an fp32 (or wider) total."""
    if left.dtype == total.dtype:
        total.addmm_(left, right, alpha=alpha)
    elif left.is_cuda:
        torch.ops.aten.addmm.dtype_out(
            total, left, right, torch.float32, beta=1, alpha=alpha, out=total
        )
    else:
        total.add_(_mm_fp32(left, right), alpha=alpha)


def _mm_fp32(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    if left.dtype in (torch.float32, torch.float64):
        return left @ right
    return (
        torch.mm(left, right, out_dtype=torch.float32)
        if left.is_cuda
        else (left.float() @ right.float())
    )

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

from medimind.kernels.lora_linear.joined import AdapterPart, InputBuffer


def joined_backward(
    grad_TO: torch.Tensor,
    inputs: InputBuffer,
    weight_OX: torch.Tensor,
    a_EI: torch.Tensor,
    parts: list[AdapterPart],
    *,
    grad_inputs: InputBuffer,
    grad_a_EI: torch.Tensor,
    grad_b: list[torch.Tensor],
    needs_input: bool = True,
    add_update: bool = True,
) -> None:
    """Adds to the adapters' gradients, and writes the input's.

    Args:
        grad_TO: Gradient of the outputs.
        inputs: As the forward pass left it.
        weight_OX: As in the forward pass.
        a_EI: The A matrices above each other, without padding.
        parts: Places of the adapters.
        grad_inputs: Where ``gx`` and ``gt`` go.
        grad_a_EI: fp32, added to.
        grad_b: fp32 for each adapter, added to.
        needs_input: Whether ``gx`` is wanted; ``gt`` always is.
        add_update: Whether ``gt A`` is added to ``gx`` here, or later by who reads it.
    """
    num_inputs = inputs.x_TI.shape[1]
    if needs_input and grad_inputs.joined_TX is not None:
        torch.mm(grad_TO, weight_OX, out=grad_inputs.joined_TX)
    else:
        torch.mm(grad_TO, weight_OX[:, num_inputs:], out=grad_inputs.t_TE)
        if needs_input:
            torch.mm(grad_TO, weight_OX[:, :num_inputs], out=grad_inputs.x_TI)
    num_columns = a_EI.shape[0]
    if not num_columns:
        return
    grad_t_TE = grad_inputs.t_TE[:, :num_columns]
    grad_a_EI += _mm_fp32(grad_t_TE.t(), inputs.x_TI)
    joint_OE = _mm_fp32(grad_TO.t(), inputs.t_TE[:, :num_columns])
    for grad_b_OR, part in zip(grad_b, parts, strict=True):
        grad_b_OR.add_(joint_OE[part.rows, part.columns], alpha=part.scaling)
    if needs_input and add_update:
        grad_inputs.x_TI.addmm_(grad_t_TE, a_EI)


def _mm_fp32(left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    if left.dtype == torch.float32 or not left.is_cuda:
        return (left @ right).float() if left.dtype != torch.float64 else left @ right
    return torch.mm(left, right, out_dtype=torch.float32)

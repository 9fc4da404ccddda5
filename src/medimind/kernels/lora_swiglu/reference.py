"""The gradient of SwiGLU with the adapters' skinny products, in plain torch.

Between the two wide GEMMs of an MLP's backward pass lie the gradient of ``z = silu(gate) * up`` and
four products that each read or write a wide tensor for 16 columns. Done while the tensors pass
through registers anyway, they cost no memory traffic of their own, and ``z`` need not be kept.

``T`` tokens, ``I`` MLP width, ``R`` rank.
"""

from __future__ import annotations

import torch

from medimind.kernels.swiglu.reference import swiglu_backward


def lora_swiglu_backward(
    grad_TI: torch.Tensor,
    grad_t_TR: torch.Tensor,
    gate_up_TJ: torch.Tensor,
    t_TS: torch.Tensor,
    a_RI: torch.Tensor,
    *,
    scaling: float,
    grad_a_RI: torch.Tensor,
    grad_b_gate_IR: torch.Tensor,
    grad_b_up_IR: torch.Tensor,
) -> None:
    """Gradients of gate and up in their place, and of the three adapters that meet here.

    ```
    gz       = grad + grad_t A                   what reaches z
    gA      += grad_t^T z                        down's A
    gB_gate += s d_gate^T t[:, :R]               gate's B
    gB_up   += s d_up^T t[:, R:]                 up's B
    ```

    Args:
        grad_TI: Gradient of ``z`` through down's base weight.
        grad_t_TR: Gradient of down's ``t``.
        gate_up_TJ: Gate and up; overwritten by their gradients.
        t_TS: ``x A^T`` of gate and up, ``S = 2 R``.
        a_RI: A of the down projection.
        scaling: Of gate's and up's adapters.
        grad_a_RI: fp32, added to.
        grad_b_gate_IR: fp32, added to.
        grad_b_up_IR: fp32, added to.
    """
    gate_TI, up_TI = gate_up_TJ.chunk(2, dim=1)
    rank = a_RI.shape[0]
    wide = grad_a_RI.dtype
    z_TI = torch.empty_like(gate_TI)
    swiglu_backward(
        grad_TI + grad_t_TR @ a_RI,
        gate_TI,
        up_TI,
        grad_gate_out=gate_TI,
        grad_up_out=up_TI,
        value_out=z_TI,
    )
    grad_a_RI += grad_t_TR.to(wide).t() @ z_TI.to(wide)
    grad_b_gate_IR += scaling * (gate_TI.to(wide).t() @ t_TS[:, :rank].to(wide))
    grad_b_up_IR += scaling * (up_TI.to(wide).t() @ t_TS[:, rank:].to(wide))

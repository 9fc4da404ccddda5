"""SwiGLU in plain torch (Shazeer, 2020): ``silu(gate) * up``.

``T`` tokens, ``I`` width.
"""

from __future__ import annotations

import torch

from medimind.kernels.fp8.reference import quantize_rows


def swiglu_forward(
    gate_TI: torch.Tensor,
    up_TI: torch.Tensor,
    *,
    out: torch.Tensor | None = None,
    codes: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> torch.Tensor:
    """``silu(gate) * up``, computed in fp32 and rounded once.

    Args:
        gate_TI: Rows may be apart.
        up_TI: Likewise.
        out: Where it goes.
        codes: Where it goes in e4m3 too, ``(T, I)``, and the scales of its rows.
    """
    wide = torch.promote_types(gate_TI.dtype, torch.float32)
    result = (torch.nn.functional.silu(gate_TI.to(wide)) * up_TI.to(wide)).to(gate_TI.dtype)
    if codes is not None:
        quantize_rows(result, out_TI=codes[0], scale_T=codes[1])
    return result if out is None else out.copy_(result)


def swiglu_backward(
    grad_TI: torch.Tensor,
    gate_TI: torch.Tensor,
    up_TI: torch.Tensor,
    *,
    grad_gate_out: torch.Tensor,
    grad_up_out: torch.Tensor,
    value_out: torch.Tensor | None = None,
) -> None:
    """Gradients of gate and up; their buffers may be ``gate_TI`` and ``up_TI`` themselves.

    With ``s = sigmoid(gate)``: ``d_up = g * gate * s`` and
    ``d_gate = g * up * s * (1 + gate * (1 - s))``.

    Args:
        grad_TI: Gradient of the output.
        gate_TI: As in the forward pass.
        up_TI: As in the forward pass.
        grad_gate_out: Where the gradient of the gate goes.
        grad_up_out: Where the gradient of up goes.
        value_out: Where the forward value goes, when it was not kept.
    """
    wide = torch.promote_types(gate_TI.dtype, torch.float32)
    grad, gate, up = (tensor.to(wide) for tensor in (grad_TI, gate_TI, up_TI))
    sigmoid = torch.sigmoid(gate)
    grad_gate = grad * up * sigmoid * (1 + gate * (1 - sigmoid))
    grad_up = grad * gate * sigmoid
    value = gate * sigmoid * up
    grad_gate_out.copy_(grad_gate)
    grad_up_out.copy_(grad_up)
    if value_out is not None:
        value_out.copy_(value)

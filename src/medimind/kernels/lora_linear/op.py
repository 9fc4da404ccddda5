"""LoRA linear: public function and the plain torch path.

``y = x W^T + bias + s (m x) A^T B^T`` with frozen ``W`` and ``bias``. Shapes: ``T`` tokens (any
leading shape), ``D`` inputs, ``O`` outputs, ``R`` rank.
"""

from __future__ import annotations

from typing import Any

import torch

from medimind.kernels.nf4 import Nf4Weight, dequantize_nf4


def dense_weight(weight: torch.Tensor | Nf4Weight, *, dtype: torch.dtype) -> torch.Tensor:
    """The weight ``(O, D)`` in ``dtype``; itself where it is dense in that dtype already."""
    if isinstance(weight, Nf4Weight):
        return dequantize_nf4(weight, dtype=dtype)
    return weight.to(dtype)


class _LoraLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TD: torch.Tensor,
        weight: torch.Tensor | Nf4Weight,
        bias_O: torch.Tensor | None,
        lora_a_RD: torch.Tensor,
        lora_b_OR: torch.Tensor,
        scaling: float,
        mask_TD: torch.Tensor | None,
    ) -> torch.Tensor:
        flat_TD = x_TD.reshape(-1, x_TD.shape[-1])
        masked_TD = flat_TD if mask_TD is None else flat_TD * mask_TD.reshape(flat_TD.shape)
        low_TR = masked_TD @ lora_a_RD.to(x_TD.dtype).t()
        weight_OD = dense_weight(weight, dtype=x_TD.dtype)
        out_TO = torch.nn.functional.linear(flat_TD, weight_OD, bias_O)
        out_TO.addmm_(low_TR, lora_b_OR.to(x_TD.dtype).t(), alpha=scaling)
        ctx.save_for_backward(flat_TD, low_TR, lora_a_RD, lora_b_OR, mask_TD)
        ctx.weight, ctx.scaling, ctx.shape = weight, scaling, x_TD.shape
        return out_TO.view(*x_TD.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        flat_TD, low_TR, lora_a_RD, lora_b_OR, mask_TD = ctx.saved_tensors
        grad_TO = grads[0].reshape(flat_TD.shape[0], -1)
        dtype, scaling = grad_TO.dtype, ctx.scaling
        grad_low_TR = (grad_TO @ lora_b_OR.to(dtype)).mul_(scaling)
        grad_b_OR = (grad_TO.t() @ low_TR).to(lora_b_OR.dtype).mul_(scaling)
        masked_TD = flat_TD if mask_TD is None else flat_TD * mask_TD.reshape(flat_TD.shape)
        grad_a_RD = (grad_low_TR.t() @ masked_TD).to(lora_a_RD.dtype)
        grad_x = None
        if ctx.needs_input_grad[0]:
            grad_TD = grad_TO @ dense_weight(ctx.weight, dtype=dtype)
            if mask_TD is None:
                grad_TD.addmm_(grad_low_TR, lora_a_RD.to(dtype))
            else:
                update_TD = grad_low_TR @ lora_a_RD.to(dtype)
                grad_TD.addcmul_(update_TD, mask_TD.reshape(flat_TD.shape))
            grad_x = grad_TD.view(ctx.shape)
        return grad_x, None, None, grad_a_RD, grad_b_OR, None, None


class _FrozenLinear(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x_TD: torch.Tensor,
        weight: torch.Tensor | Nf4Weight,
        bias_O: torch.Tensor | None,
    ) -> torch.Tensor:
        ctx.weight, ctx.dtype = weight, x_TD.dtype
        return torch.nn.functional.linear(x_TD, dense_weight(weight, dtype=x_TD.dtype), bias_O)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        return grads[0] @ dense_weight(ctx.weight, dtype=ctx.dtype), None, None


def frozen_linear(
    x_TD: torch.Tensor, weight: torch.Tensor | Nf4Weight, bias: torch.Tensor | None
) -> torch.Tensor:
    """``x W^T + bias`` with frozen weights; an NF4 weight is dequantised again in the backward."""
    out: Any = _FrozenLinear.apply(x_TD, weight, bias)
    return out


def lora_linear(
    x_TD: torch.Tensor,
    weight: torch.Tensor | Nf4Weight,
    bias: torch.Tensor | None,
    lora_a_RD: torch.Tensor,
    lora_b_OR: torch.Tensor,
    *,
    scaling: float,
    dropout_mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Base output plus the scaled update, in the dtype of ``x``.

    Args:
        x_TD: Inputs.
        weight: Base weight ``(O, D)``, dense or NF4; frozen.
        bias: Base bias ``(O,)``; frozen.
        lora_a_RD: float32.
        lora_b_OR: float32.
        scaling: Factor of the update.
        dropout_mask: ``(T, D)`` factors of the update's input: 0 or ``1 / (1 - p)``.
    """
    out: Any = _LoraLinear.apply(x_TD, weight, bias, lora_a_RD, lora_b_OR, scaling, dropout_mask)
    return out

"""One linear layer of the decoder: a frozen base, dense or NF4, and a low-rank update.

Shapes: ``T`` tokens (any leading shape), ``D`` inputs, ``O`` outputs, ``R`` rank.
"""

from __future__ import annotations

import torch
from torch import nn

from medimind.kernels.lora_linear import dense_weight, frozen_linear, lora_linear
from medimind.kernels.nf4 import Nf4Weight, dequantize_nf4, quantize_nf4


class Projection(nn.Module):
    """``x W^T + bias``, plus ``scaling * x A^T B^T`` where an adapter is attached and enabled.

    The weight and bias may be views of buffers that neighbouring projections share, so that their
    products can be one; they are filled in place and never replaced by others' tensors.

    Attributes:
        weight: ``(O, D)`` in the compute dtype; ``None`` while ``nf4`` holds it.
        nf4: The weight in 4 bits.
        bias: ``(O,)``.
        lora_a: float32 ``(R, D)``.
        lora_b: float32 ``(O, R)``.
        scaling: Factor of the update.
        dropout: Share of the update's inputs that is zeroed in training mode.
        adapter_enabled: Whether the update is added.
    """

    weight: nn.Parameter | None
    bias: nn.Parameter | None
    lora_a: nn.Parameter | None
    lora_b: nn.Parameter | None

    def __init__(self, weight_OD: torch.Tensor, bias_O: torch.Tensor | None, *, index: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight_OD, requires_grad=False)
        self.bias = None if bias_O is None else nn.Parameter(bias_O, requires_grad=False)
        self.nf4: Nf4Weight | None = None
        self.lora_a = None
        self.lora_b = None
        self.scaling = 0.0
        self.dropout = 0.0
        self.dropout_seed = 0
        self.adapter_enabled = True
        self.index = index
        self.in_features = weight_OD.shape[1]
        self.out_features = weight_OD.shape[0]
        self.dtype = weight_OD.dtype

    @property
    def base(self) -> torch.Tensor | Nf4Weight:
        """The base weight as it is held."""
        if self.nf4 is not None:
            return self.nf4
        if self.weight is None:
            raise AssertionError("the projection holds no weight")
        return self.weight

    @property
    def has_adapter(self) -> bool:
        """Whether an update is attached and enabled."""
        return self.lora_a is not None and self.adapter_enabled

    def adapter(self, *, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
        """A and B in ``dtype``, detached."""
        if self.lora_a is None or self.lora_b is None:
            raise AssertionError("the projection has no adapter")
        return self.lora_a.detach().to(dtype), self.lora_b.detach().to(dtype)

    def dense(self, *, dtype: torch.dtype | None = None) -> torch.Tensor:
        """The base weight ``(O, D)`` in ``dtype`` (the compute dtype by default)."""
        return dense_weight(self.base, dtype=dtype or self.dtype)

    @torch.no_grad()
    def merged(self) -> torch.Tensor:
        """Base weight plus the scaled update, float32 ``(O, D)``."""
        weight_OD = self.dense(dtype=torch.float32).clone()
        if self.lora_a is not None and self.lora_b is not None:
            weight_OD.addmm_(self.lora_b, self.lora_a, alpha=self.scaling)
        return weight_OD

    @torch.no_grad()
    def quantize_nf4(self, *, double_quantization: bool) -> None:
        """Hold the weight in NF4.

        On a CPU the quantised values are written back in the compute dtype, once: the result is
        that of NF4, at the speed of a dense weight.
        """
        if self.weight is None:
            return
        nf4 = quantize_nf4(self.weight.data, double_quantization=double_quantization)
        if self.weight.device.type == "cpu":
            self.weight.data.copy_(dequantize_nf4(nf4, dtype=self.dtype))
        else:
            self.hold_nf4(nf4)

    def hold_nf4(self, nf4: Nf4Weight) -> None:
        """Take a weight in NF4 instead of the dense one."""
        self.nf4 = nf4
        if self.weight is not None:
            # The decoder knows the parameter by name and shape; only its memory goes.
            self.weight.data = self.weight.data.new_empty(1).expand(self.weight.shape)
            self.weight = None

    def forward(self, x_TD: torch.Tensor) -> torch.Tensor:
        """Outputs in the dtype of the inputs."""
        if self.lora_a is None or self.lora_b is None or not self.adapter_enabled:
            return frozen_linear(x_TD, self.base, self.bias)
        return lora_linear(
            x_TD,
            self.base,
            self.bias,
            self.lora_a,
            self.lora_b,
            scaling=self.scaling,
            dropout_mask=self._dropout_mask(x_TD),
        )

    def _dropout_mask(self, x_TD: torch.Tensor) -> torch.Tensor | None:
        """Factors 0 or ``1 / (1 - p)``: a pure function of the seed, this projection and shape."""
        if not (self.training and self.dropout):
            return None
        generator = torch.Generator(device=x_TD.device)
        generator.manual_seed((self.dropout_seed * 1_000_003 + self.index) % (1 << 63))
        mask_TD = torch.empty(x_TD.shape, dtype=x_TD.dtype, device=x_TD.device)
        keep = 1.0 - self.dropout
        return mask_TD.bernoulli_(keep, generator=generator).mul_(1.0 / keep)

"""Linear layer with a frozen base and a low-rank update (Hu et al., 2021)."""

from medimind.kernels.lora_linear.op import dense_weight, frozen_linear, lora_linear

__all__ = ["dense_weight", "frozen_linear", "lora_linear"]

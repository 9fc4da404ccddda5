"""Cross-entropy of a linear head, without ever holding all logits."""

from medimind.kernels.cross_entropy.op import linear_cross_entropy, linear_token_losses

__all__ = ["linear_cross_entropy", "linear_token_losses"]

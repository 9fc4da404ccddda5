"""The training step written out by hand: explicit buffers, no autograd, CUDA graphs."""

from medimind.models.fused.loss import micro_batch_tokens, training_loss
from medimind.models.fused.plan import StepPlan
from medimind.models.fused.step import FusedStep

__all__ = ["FusedStep", "StepPlan", "micro_batch_tokens", "training_loss"]

"""The training step written out by hand: explicit buffers, no autograd, CUDA graphs."""

from medimind.models.fused.loss import training_loss
from medimind.models.fused.plan import StepPlan
from medimind.models.fused.step import FusedStep

__all__ = ["FusedStep", "StepPlan", "training_loss"]

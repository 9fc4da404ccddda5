"""The training step written out by hand: explicit buffers, no autograd, CUDA graphs."""

from medimind.models.fused.step import FusedStep

__all__ = ["FusedStep"]

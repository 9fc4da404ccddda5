"""Causal attention within each of several sequences laid end to end."""

from medimind.kernels.attention.op import varlen_attention

__all__ = ["varlen_attention"]

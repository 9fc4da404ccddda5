"""Gated activation ``silu(gate) * up`` (Shazeer, 2020)."""

from medimind.kernels.swiglu.op import swiglu

__all__ = ["swiglu"]

"""Rotary position embedding (Su et al., 2021) of queries and keys."""

from medimind.kernels.rotary.op import apply_rotary

__all__ = ["apply_rotary"]

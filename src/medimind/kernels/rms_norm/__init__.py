"""Root mean square normalisation (Zhang & Sennrich, 2019), also with the residual sum before it."""

from medimind.kernels.rms_norm.op import add_rms_norm, rms_norm

__all__ = ["add_rms_norm", "rms_norm"]

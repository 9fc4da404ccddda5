"""NF4: weights in 4 bits, in bitsandbytes' layout."""

from medimind.kernels.nf4.dequantize import dequantize_nf4
from medimind.kernels.nf4.quantize import quantize_nf4
from medimind.kernels.nf4.weight import Nf4Weight

__all__ = ["Nf4Weight", "dequantize_nf4", "quantize_nf4"]

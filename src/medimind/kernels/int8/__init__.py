"""Tables of the vocabulary (embedding, head) in 8 bits, one scale a row."""

from medimind.kernels.int8.op import (
    Table,
    dequantize_int8,
    quantize_int8,
    table_gradient,
    table_product,
)
from medimind.kernels.int8.weight import Int8Weight

__all__ = [
    "Int8Weight",
    "Table",
    "dequantize_int8",
    "quantize_int8",
    "table_gradient",
    "table_product",
]

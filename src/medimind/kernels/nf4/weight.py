"""A weight matrix in NF4, as a value.

``O`` outputs, ``I`` inputs, ``S = ceil(O * I / block_size)`` scales, ``Z = ceil(S / 256)``.

```
weight_OI, row by row   | block 0: 64 weights  | block 1: 64 weights  | ...
packed_P     uint8      | 32 bytes, two each   | 32 bytes             |      P = ceil(O * I / 2)
absmax_S     uint8      | 1                    | 1                    |      double-quantised
nested_absmax_Z  fp32   | one for 256 scales ...                      |
offset       fp32       the mean of all scales

weight = NF4_CODE[nibble] * (dynamic_code[absmax_S] * nested_absmax_Z + offset)
```
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch

NESTED_BLOCK_SIZE = 256


@dataclass(frozen=True, slots=True)
class Nf4Weight:
    """A weight matrix in 4 bits, in bitsandbytes' layout.

    Attributes:
        packed_P: uint8; two weights a byte, the first in the high half.
        absmax_S: Largest magnitude of each block: fp32, or uint8 indices of ``dynamic_code`` when
            double-quantised.
        nested_absmax_Z: fp32 scales of ``absmax_S``; ``None`` without double quantisation.
        offset: fp32 scalar added to the decoded scales; ``None`` without double quantisation.
        shape: Shape of the weight.
        dtype: The dtype it was quantised from.
        block_size: Weights per scale.
    """

    packed_P: torch.Tensor
    absmax_S: torch.Tensor
    nested_absmax_Z: torch.Tensor | None
    offset: torch.Tensor | None
    shape: tuple[int, ...]
    dtype: torch.dtype
    block_size: int = 64

    @property
    def double_quantized(self) -> bool:
        """Whether the scales are quantised too."""
        return self.nested_absmax_Z is not None

    @property
    def nbytes(self) -> int:
        """Bytes held, scales included."""
        return sum(tensor.nbytes for tensor in self.tensors().values())

    @property
    def numel(self) -> int:
        """Number of weights."""
        return torch.Size(self.shape).numel()

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.packed_P.device

    def to(self, device: torch.device | str, *, non_blocking: bool = False) -> Nf4Weight:
        """The same weight on another device."""
        moved = {
            name: tensor.to(device, non_blocking=non_blocking)
            for name, tensor in self.tensors().items()
        }
        return Nf4Weight.from_tensors(
            moved, shape=self.shape, dtype=self.dtype, block_size=self.block_size
        )

    def tensors(self) -> dict[str, torch.Tensor]:
        """The tensors by name, to be stored; ``from_tensors`` is the way back."""
        named = {
            "packed": self.packed_P,
            "absmax": self.absmax_S,
            "nested_absmax": self.nested_absmax_Z,
            "offset": self.offset,
        }
        return {name: tensor for name, tensor in named.items() if tensor is not None}

    @classmethod
    def from_tensors(
        cls,
        tensors: Mapping[str, torch.Tensor],
        *,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        block_size: int = 64,
    ) -> Nf4Weight:
        """The weight that ``tensors()`` was taken of.

        Raises:
            ValueError: When sizes or dtypes do not fit the shape.
        """
        weight = cls(
            packed_P=tensors["packed"],
            absmax_S=tensors["absmax"],
            nested_absmax_Z=tensors.get("nested_absmax"),
            offset=tensors.get("offset"),
            shape=tuple(shape),
            dtype=dtype,
            block_size=block_size,
        )
        _check(weight)
        return weight


def _check(weight: Nf4Weight) -> None:
    num_scales = -(-weight.numel // weight.block_size)
    expected = {"packed": (-(-weight.numel // 2), torch.uint8)}
    if weight.double_quantized:
        expected["absmax"] = (num_scales, torch.uint8)
        expected["nested_absmax"] = (-(-num_scales // NESTED_BLOCK_SIZE), torch.float32)
        expected["offset"] = (1, torch.float32)
    else:
        expected["absmax"] = (num_scales, torch.float32)
    found = {name: (tensor.numel(), tensor.dtype) for name, tensor in weight.tensors().items()}
    if found != expected:
        raise ValueError(f"tensors {found} do not make an NF4 weight of shape {weight.shape}")

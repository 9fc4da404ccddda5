"""Weights laid out for products with few rows, on a CPU.

A decoding step multiplies a handful of rows with every weight of the model. The library behind
``torch.nn.functional.linear`` (MKL) is made for many rows, and slow on processors of others: eight
rows through all layers of SmolLM2-135M took 152 ms, oneDNN's own layout 91 ms, and the output
matrix 86 and 19 ms (AMD EPYC, 2 threads).

Where every value of a weight is a half-precision number times one power of two, as in checkpoints
that were published in bf16 or fp16, FBGEMM's half-precision layout holds the same values in half
the bytes; the products and sums are float32 either way.

Legend: B rows, D inputs, O outputs.
"""

from __future__ import annotations

import logging
import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from medimind.models.decoder import Decoder

logger = logging.getLogger(__name__)

Layout = Literal["half", "float32"]

_ROWS = 8  # what layouts are made for; others work too
_MOST_HALF = 65504.0
_MEMORY_SHARE = 0.5
_CONTROL_GROUP = Path("/sys/fs/cgroup")


@dataclass(frozen=True, slots=True)
class PackedLinear:
    """``x W^T + bias`` in float32, with the weight in another layout.

    Attributes:
        product: From x (B, D) to x W^T + bias (B, O), a new tensor.
        num_bytes: Memory of the layout.
        layout: Which one.
    """

    product: Callable[[Tensor], Tensor]
    num_bytes: int
    layout: Layout

    def __call__(self, x_BD: Tensor) -> Tensor:
        """The outputs (B, O)."""
        return self.product(x_BD)


@dataclass(frozen=True, slots=True)
class _Entry:
    checksum: tuple[int, int]
    packed: PackedLinear | None


class PackedWeights:
    """The packed weights of one decoder, made at their first use.

    Args:
        most_bytes: Memory that the layouts may take together; beyond it nothing is packed.

    Attributes:
        num_without_room: Weights that are multiplied as they are because of that limit.
    """

    def __init__(self, *, most_bytes: int) -> None:
        self._left = most_bytes
        self._entries: dict[tuple[int, tuple[int, ...]], _Entry] = {}
        self.num_without_room = 0

    def product(self, weight_OD: Tensor, bias_O: Tensor | None) -> PackedLinear | None:
        """The product with a weight; ``None`` where it is better taken as it is.

        A weight that was filled anew is packed anew: finding that out takes one pass over it,
        about as long as one token.
        """
        if weight_OD.device.type != "cpu" or weight_OD.dtype != torch.float32:
            return None
        weight_OD = weight_OD.detach()
        key = (weight_OD.data_ptr(), tuple(weight_OD.shape))
        checksum = (_checksum(weight_OD), 0 if bias_O is None else _checksum(bias_O.detach()))
        found = self._entries.get(key)
        if found is not None and found.checksum == checksum:
            return found.packed
        if found is not None and found.packed is not None:
            self._left += found.packed.num_bytes
        packed = None
        if weight_OD.nbytes <= self._left:
            packed = pack_linear(weight_OD, bias_O)
            self._left -= packed.num_bytes if packed is not None else 0
        else:
            self._tell()
        self._entries[key] = _Entry(checksum, packed)
        return packed

    @property
    def layouts(self) -> dict[Layout | None, int]:
        """How many weights are held in which layout; ``None`` counts those in none."""
        counts: dict[Layout | None, int] = {}
        for entry in self._entries.values():
            layout = None if entry.packed is None else entry.packed.layout
            counts[layout] = counts.get(layout, 0) + 1
        return counts

    def _tell(self) -> None:
        if not self.num_without_room:
            logger.warning(
                "too little memory to hold all weights in the layout for generation: "
                "the outputs are the same, but slower"
            )
        self.num_without_room += 1


def packed_weights(decoder: Decoder) -> PackedWeights:
    """The packed weights of a decoder, kept with it until training wants the memory.

    They may take half of the memory that is free when they are first asked for.
    """
    if not isinstance(decoder.generation, PackedWeights):
        most = int(available_bytes() * _MEMORY_SHARE)
        decoder.generation = PackedWeights(most_bytes=most)
    return decoder.generation


def available_bytes() -> int:
    """Memory that this process can still be given; 0 where the system does not tell."""
    return int(min(_free_in_machine(), _free_in_container()))


def _free_in_machine() -> int:
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        found = next(line for line in lines if line.startswith("MemAvailable:"))
        return int(found.split()[1]) * 1024
    except (OSError, StopIteration, ValueError):
        pass
    try:
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return 0


def _free_in_container() -> float:
    """What the control group leaves; without limit there is more than any machine has."""
    try:
        most, used = (
            int((_CONTROL_GROUP / name).read_text("ascii"))
            for name in ("memory.max", "memory.current")
        )
    except (OSError, ValueError):  # no group, or "max"
        return math.inf
    return max(0, most - used)


def _checksum(values: Tensor) -> int:
    """A sum of the bits."""
    flat = values.reshape(-1)
    if flat.storage_offset() % 2:
        return int(flat.view(torch.int32).sum())
    even = flat.numel() // 2 * 2
    # Read as 64 bits: torch sums those as fast as memory gives them, 32 bits it does not.
    total = int(flat[:even].view(torch.int64).sum())
    return total if even == flat.numel() else total + int(flat[even:].view(torch.int32))


@torch.no_grad()
def pack_linear(weight_OD: Tensor, bias_O: Tensor | None) -> PackedLinear | None:
    """The weight in the fastest layout that holds the same values; ``None`` where there is none.

    Args:
        weight_OD: float32 on the CPU; it is copied.
        bias_O: float32, or ``None``.
    """
    weight_OD = weight_OD.detach()
    bias_O = None if bias_O is None else bias_O.detach()
    return _half(weight_OD, bias_O) or _onednn(weight_OD, bias_O)


def half_exponent(weight_OD: Tensor) -> int | None:
    """The power of two that makes all values half-precision numbers; ``None`` if there is none."""
    largest = float(weight_OD.abs().max())
    if not 0.0 < largest < math.inf:
        return None
    # As large as fits: small values then keep all their digits.
    exponent = math.floor(math.log2(_MOST_HALF / largest))
    scaled_OD = torch.ldexp(weight_OD, torch.tensor(exponent))
    return exponent if torch.equal(scaled_OD.half().float(), scaled_OD) else None


def _half(weight_OD: Tensor, bias_O: Tensor | None) -> PackedLinear | None:
    operations = getattr(torch.ops, "quantized", None)
    exponent = None
    if "fbgemm" in torch.backends.quantized.supported_engines:
        exponent = half_exponent(weight_OD)
    if exponent is None or operations is None:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that it moves to another package some day
            scaled_OD = torch.ldexp(weight_OD, torch.tensor(exponent)).contiguous()
            packed: Any = operations.linear_prepack_fp16(scaled_OD, None)
            multiply: Any = operations.linear_dynamic_fp16
            multiply(scaled_OD.new_zeros(1, scaled_OD.shape[1]), packed)
    except (AttributeError, RuntimeError):
        return None
    factor = math.ldexp(1.0, -exponent)

    def product(x_BD: Tensor) -> Tensor:
        out_BO = multiply(x_BD, packed).mul_(factor)
        return out_BO if bias_O is None else out_BO.add_(bias_O)

    return PackedLinear(product, weight_OD.numel() * 2, "half")


def _onednn(weight_OD: Tensor, bias_O: Tensor | None) -> PackedLinear | None:
    if not torch.backends.mkldnn.is_available():
        return None
    try:
        packed: Any = torch.ops.mkldnn._reorder_linear_weight(weight_OD.contiguous(), _ROWS)
        multiply: Any = torch.ops.mkldnn._linear_pointwise
        multiply(weight_OD.new_zeros(1, weight_OD.shape[1]), packed, bias_O, "none", [], "")
    except (AttributeError, RuntimeError):  # this build of torch has no such layout
        return None

    def product(x_BD: Tensor) -> Tensor:
        return multiply(x_BD, packed, bias_O, "none", [], "")

    return PackedLinear(product, weight_OD.nbytes, "float32")

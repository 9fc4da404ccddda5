"""A model's weights with an adapter merged in, read from disk a slice of rows at a time.

An update that was trained against NF4 fits the dequantised weights. Merged into the checkpoint's
own weights it meets values that it has not seen; both can be had here:

```
trained    dequantised NF4(W) + scaling * B A     what was trained
original   W + scaling * B A                      closer to the checkpoint
```
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from medimind.kernels.nf4 import dequantize_nf4, quantize_nf4
from medimind.models.adapter import read_adapter
from medimind.models.architecture import PROJECTIONS, Architecture
from medimind.models.checkpoint import Checkpoint, open_checkpoint, weight_shapes
from medimind.models.lora import PEFT_PREFIX, LoraSpec

MergeBase = Literal["trained", "original"]
_WEIGHT = ".weight"


@dataclass(slots=True)
class MergedWeights:
    """The weights; open them with `open_weights`.

    Attributes:
        architecture: What they are the weights of.
        shapes: Hugging Face name -> shape, in the order of the layers.
        spec: The adapter's shape; ``None`` where there is none.
    """

    architecture: Architecture
    shapes: Mapping[str, tuple[int, ...]]
    spec: LoraSpec | None
    _checkpoint: Checkpoint
    _adapter: Mapping[str, Tensor]
    _nf4: bool
    _double_quantization: bool
    _dtype: torch.dtype
    # The one projection whose NF4 form is held: double quantisation needs a tensor's every scale.
    _held: tuple[str, Tensor] | None = field(default=None)

    @torch.no_grad()
    def rows(self, name: str, *, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` of a weight, merged, float32.

        Query and key rows of a GGUF base must be asked for in whole heads.

        Raises:
            CheckpointError: If the checkpoint cannot be read.
        """
        stop = min(stop, self.shapes[name][0])
        rows = self._base_rows(name, start, stop)
        module = PEFT_PREFIX + name.removesuffix(_WEIGHT)
        b_OR = self._adapter.get(f"{module}.lora_B.weight")
        if b_OR is None or self.spec is None or not name.endswith(_WEIGHT):
            return rows
        a_RD = self._adapter[f"{module}.lora_A.weight"]
        return rows.addmm(b_OR[start:stop], a_RD, alpha=self.spec.scaling)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Every weight whole, merged, float32, one layer after the other."""
        for name, shape in self.shapes.items():
            yield name, self.rows(name, start=0, stop=shape[0])

    def _base_rows(self, name: str, start: int, stop: int) -> Tensor:
        if not self._nf4 or not _is_projection(name):
            return self._checkpoint.read_rows(name, start=start, stop=stop)
        if self._held is None or self._held[0] != name:
            self._held = None  # gone before the next is made
            weight_OD = self._checkpoint.read(name, dtype=self._dtype)
            nf4 = quantize_nf4(weight_OD, double_quantization=self._double_quantization)
            self._held = (name, dequantize_nf4(nf4, dtype=self._dtype))
        return self._held[1][start:stop].float()


def open_weights(
    model: Path,
    *,
    adapter: Path | None = None,
    base: MergeBase = "trained",
    nf4: bool = False,
    double_quantization: bool = True,
    dtype: torch.dtype = torch.float32,
    base_sha256: str | None = None,
) -> MergedWeights:
    """The weights of a checkpoint, with the adapter of a folder merged in where one is given.

    Args:
        model: GGUF file, or folder with ``config.json`` and safetensors.
        adapter: PEFT folder.
        base: What the adapter is merged into.
        nf4: Whether it was trained against NF4, which ``trained`` then gives, dequantised, with or
            without the adapter; else ``trained`` is ``original``.
        double_quantization: Of that NF4.
        dtype: The compute dtype of that training.
        base_sha256: Digest of the model's weights, which the adapter's own note must equal.

    Raises:
        CheckpointError: If the checkpoint is damaged or not supported.
        AdapterError: If the adapter is damaged or does not fit.
    """
    checkpoint = open_checkpoint(model)
    shapes = weight_shapes(checkpoint.architecture)
    spec, tensors = None, {}
    if adapter is not None:
        widths = {
            name.removesuffix(_WEIGHT): (shape[1], shape[0])
            for name, shape in shapes.items()
            if _is_projection(name)
        }
        spec, tensors = read_adapter(adapter, widths, base_sha256=base_sha256)
    return MergedWeights(
        architecture=checkpoint.architecture,
        shapes=shapes,
        spec=spec,
        _checkpoint=checkpoint,
        _adapter=tensors,
        _nf4=nf4 and base == "trained",
        _double_quantization=double_quantization,
        _dtype=dtype,
    )


def _is_projection(name: str) -> bool:
    return name.endswith(_WEIGHT) and name.split(".")[-2] in PROJECTIONS

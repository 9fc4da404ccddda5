"""Weights from safetensors files to a card: read by threads, cast, checked and quantised there.

At no time does the card hold more than what stays on it, one projection in full width, and the
scratch of its quantisation; the host holds the pieces in flight (see ``stream``).
"""

from __future__ import annotations

from collections.abc import Iterator

import torch

from medimind.kernels.int8 import quantize_int8
from medimind.kernels.nf4 import quantize_nf4
from medimind.models.checkpoint import Checkpoint, all_finite
from medimind.models.decoder import Decoder
from medimind.models.stream import StoredTensor, stream_tensors

_LAYERS = "model.layers."


@torch.no_grad()
def fill_on_card(
    decoder: Decoder,
    checkpoint: Checkpoint,
    *,
    nf4: bool,
    double_quantization: bool,
    int8_tables: bool = False,
) -> None:
    """Fill a decoder without layers from a checkpoint whose values are stored plainly.

    Args:
        decoder: Its layers are made here.
        checkpoint: The weights.
        nf4: Quantise the projections.
        double_quantization: Quantise the NF4 scales themselves.
        int8_tables: Hold embedding and head in 8 bits.

    Raises:
        CheckpointError: A tensor is not finite in the decoder's dtype, or cannot be read.
    """
    projections = {f"{name}.weight" for name, _ in decoder.projections()}
    quantised = projections if nf4 else set()
    tables = {name for name, _ in decoder.tables()} if int8_tables else set()
    for index in range(checkpoint.architecture.num_layers):
        decoder.allocate_layer(index, dense=not nf4)
    finite: dict[str, torch.Tensor] = {}

    def place(tensor: StoredTensor) -> torch.Tensor | None:
        if tensor.name in quantised | tables or tensor.dtype != decoder.dtype:
            return None
        return decoder.get_parameter(tensor.name).data

    stored = list(_in_order(decoder, checkpoint))
    for tensor, values in stream_tensors(stored, device=decoder.device, place=place):
        values = values.to(decoder.dtype)
        finite[tensor.name] = all_finite(values)
        if tensor.name in quantised:
            weight = quantize_nf4(values, double_quantization=double_quantization)
            decoder.load_nf4(tensor.name, weight)
        elif tensor.name in tables:
            decoder.load_int8(tensor.name, quantize_int8(values))
        else:
            decoder.load_tensor(tensor.name, values)
    for name, is_finite in zip(finite, torch.stack(list(finite.values())).tolist(), strict=True):
        if not is_finite:
            raise checkpoint.not_finite(name, dtype=decoder.dtype)


def _in_order(decoder: Decoder, checkpoint: Checkpoint) -> Iterator[StoredTensor]:
    """The layers' tensors first, as they lie in the files, then those that no layer has."""
    wanted = set(decoder.tensor_shapes())
    found = [tensor for name, tensor in checkpoint.stored.items() if name in wanted]
    found.sort(key=lambda t: (not t.name.startswith(_LAYERS), t.file, t.offset))
    yield from found

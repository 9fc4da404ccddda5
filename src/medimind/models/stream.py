"""Tensors of safetensors files, read by several threads and carried to a device in order.

```
files ──► threads read ──► pinned buffers, taken in turn ──► one stream of copies ──► the tensor
          ahead of the copies                               ahead of what is done with it
```

Host memory holds ``NUM_BUFFERS`` pieces and nothing else, however large a tensor is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from medimind.errors import CheckpointError

PIECE_BYTES = 16 << 20
NUM_BUFFERS = 16
"""Half of them are being read into while the others are being copied from."""
NUM_THREADS = 8
_LAG = NUM_BUFFERS // 2


@dataclass(frozen=True, slots=True)
class StoredTensor:
    """Where a tensor lies in a file as plain values.

    Attributes:
        name: Hugging Face name.
        file: The file.
        offset: First byte.
        num_bytes: Bytes.
        dtype: Of the values.
        shape: Rows first.
    """

    name: str
    file: Path
    offset: int
    num_bytes: int
    dtype: torch.dtype
    shape: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Piece:
    tensor: int
    start: int
    stop: int
    is_last: bool


def stream_tensors(
    stored: Sequence[StoredTensor],
    *,
    device: torch.device,
    place: Callable[[StoredTensor], torch.Tensor | None] = lambda _: None,
) -> Iterator[tuple[StoredTensor, torch.Tensor]]:
    """Each tensor on the device, in the order given and in its stored dtype.

    Args:
        stored: What to read.
        device: Where it goes.
        place: A contiguous tensor of the stored dtype and shape to fill; ``None`` makes one.

    Raises:
        CheckpointError: A file cannot be read, or became shorter.
    """
    pin = device.type == "cuda"
    buffers = [
        torch.empty(PIECE_BYTES, dtype=torch.uint8, pin_memory=pin) for _ in range(NUM_BUFFERS)
    ]
    copied: list[torch.cuda.Event | None] = [None] * NUM_BUFFERS
    reads: list[Future[None] | None] = [None] * NUM_BUFFERS
    pieces = list(_pieces(stored))
    target, flat = torch.empty(0), torch.empty(0)
    with ThreadPoolExecutor(NUM_THREADS) as pool:
        for index in range(len(pieces) + _LAG):
            if index < len(pieces):
                slot = index % NUM_BUFFERS
                _wait(copied[slot])
                piece = pieces[index]
                view = buffers[slot].numpy()[: piece.stop - piece.start]
                reads[slot] = pool.submit(_read, stored[piece.tensor], piece.start, view)
            if index < _LAG:
                continue
            piece, slot = pieces[index - _LAG], (index - _LAG) % NUM_BUFFERS
            tensor = stored[piece.tensor]
            read = reads[slot]
            assert read is not None
            read.result()
            if piece.start == 0:
                found = place(tensor)
                if found is None:
                    found = torch.empty(tensor.shape, dtype=tensor.dtype, device=device)
                target, flat = found, found.view(-1).view(torch.uint8)
            source = buffers[slot][: piece.stop - piece.start]
            flat[piece.start : piece.stop].copy_(source, non_blocking=True)
            copied[slot] = _mark() if pin else None
            if piece.is_last:
                yield tensor, target
                target = flat = torch.empty(0)


def _pieces(stored: Sequence[StoredTensor]) -> Iterator[_Piece]:
    for index, tensor in enumerate(stored):
        for start in range(0, max(tensor.num_bytes, 1), PIECE_BYTES):
            stop = min(start + PIECE_BYTES, tensor.num_bytes)
            yield _Piece(index, start, stop, stop == tensor.num_bytes)


def _read(tensor: StoredTensor, start: int, into: np.ndarray) -> None:
    try:
        with tensor.file.open("rb", buffering=0) as file:
            file.seek(tensor.offset + start)
            view, done = into.data, 0
            while done < len(view):
                count = file.readinto(view[done:])
                if not count:
                    raise CheckpointError(
                        f"tensor '{tensor.name[:80]}' is cut off",
                        where=str(tensor.file),
                        fix="The file is damaged or incomplete: fetch it again",
                    )
                done += count
    except OSError as problem:
        reason = problem.strerror or str(problem)
        raise CheckpointError(f"cannot read the file: {reason}", where=str(tensor.file)) from None


def _mark() -> torch.cuda.Event:
    event = torch.cuda.Event()
    event.record()
    return event


def _wait(event: torch.cuda.Event | None) -> None:
    if event is not None:
        event.synchronize()

"""GGUF files written tensor by tensor, slice by slice, so that memory stays bounded.

The header is packed by the ``gguf`` package from the plan alone; the data follow in the plan's
order, quantised by a few threads while the next slices are read.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from gguf import GGUFWriter
from gguf.constants import GGUF_DEFAULT_ALIGNMENT
from gguf.constants import GGMLQuantizationType as Kind
from numpy.typing import NDArray

from medimind.errors import ExportError
from medimind.export.gguf.metadata import value_type
from medimind.export.gguf.quantize import quantize, stored_bytes
from medimind.formats.gguf import read_gguf

SLICE = 1 << 22
"""Weights quantised by one thread at a time: 16 MiB in float32."""

Rows = Callable[[int, int], NDArray[np.float32]]
Progress = Callable[[int, int], None]


@dataclass(frozen=True, slots=True)
class PlannedTensor:
    """A tensor to be written.

    Attributes:
        name: GGUF name.
        shape: Rows first.
        kind: Stored type.
        rows: Gives rows ``start`` to ``stop`` in float32.
        multiple: Slices are multiples of so many rows (a head's width where rows are reordered).
        importance: Mean squared input of each column, for K-quants.
    """

    name: str
    shape: tuple[int, ...]
    kind: Kind
    rows: Rows
    multiple: int = 1
    importance: NDArray[np.float32] | None = None

    @property
    def num_bytes(self) -> int:
        """Stored size without padding."""
        return stored_bytes(self.shape, self.kind)

    def slices(self) -> Iterator[tuple[int, int]]:
        """Stretches of rows of at most `SLICE` weights, one head at least."""
        width = int(np.prod(self.shape[1:], dtype=np.int64))
        step = max(1, SLICE // max(width, 1) // self.multiple) * self.multiple
        for start in range(0, self.shape[0], step):
            yield start, min(start + step, self.shape[0])


def write_gguf(
    path: Path,
    *,
    architecture: str,
    metadata: Mapping[str, Any],
    tensors: Sequence[PlannedTensor],
    threads: int,
    progress: Progress | None = None,
) -> int:
    """Write a file, which appears complete or not at all, and read its header again.

    Args:
        path: The file; replaced if it is there.
        architecture: ``general.architecture``.
        metadata: All other keys.
        tensors: What is written, in this order.
        threads: That quantise.
        progress: Called with weights done and weights altogether.

    Returns:
        The file's size in bytes.

    Raises:
        ExportError: If a value cannot be stored, or the disk is full or not writable.
    """
    _check_space(path, sum(tensor.num_bytes for tensor in tensors))
    with _appearing(path) as partial:
        _write_header(partial, architecture, metadata, tensors)
        with partial.open("ab") as file, ThreadPoolExecutor(threads) as pool:
            _pad(file)
            _write_data(file, tensors, pool, threads=threads, progress=progress)
            file.flush()
            os.fsync(file.fileno())
        _check_written(partial, tensors)
    return path.stat().st_size


def _write_header(
    path: Path,
    architecture: str,
    metadata: Mapping[str, Any],
    tensors: Sequence[PlannedTensor],
) -> None:
    writer = GGUFWriter(path, architecture)
    for key, value in metadata.items():
        if value != []:
            writer.add_key_value(key, value, value_type(key, value))
    for tensor in tensors:
        dtype = np.dtype(np.float32)
        writer.add_tensor_info(
            tensor.name, tensor.shape, dtype, tensor.num_bytes, raw_dtype=tensor.kind
        )
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
    finally:
        writer.close()


def _write_data(
    file: BinaryIO,
    tensors: Sequence[PlannedTensor],
    pool: ThreadPoolExecutor,
    *,
    threads: int,
    progress: Progress | None,
) -> None:
    total = sum(int(np.prod(tensor.shape, dtype=np.int64)) for tensor in tensors)
    done = 0
    waiting: deque[tuple[Future[NDArray[np.uint8]], PlannedTensor, int, bool]] = deque()

    def write_oldest() -> None:
        nonlocal done
        future, tensor, count, is_last = waiting.popleft()
        try:
            file.write(future.result().data)
        except ExportError as error:
            raise ExportError(error.message, where=tensor.name, fix=error.fix) from error
        if is_last:
            _pad(file)
        done += count
        if progress is not None:
            progress(done, total)

    try:
        for tensor in tensors:
            for start, stop in tensor.slices():
                rows = tensor.rows(start, stop)
                future = pool.submit(quantize, rows, tensor.kind, importance=tensor.importance)
                waiting.append((future, tensor, rows.size, stop == tensor.shape[0]))
                if len(waiting) > threads:
                    write_oldest()
        while waiting:
            write_oldest()
    finally:
        for future, *_ in waiting:
            future.cancel()


def _pad(file: BinaryIO) -> None:
    file.write(bytes(-file.tell() % GGUF_DEFAULT_ALIGNMENT))


@contextmanager
def _appearing(path: Path) -> Iterator[Path]:
    """A file beside ``path`` that takes its place when the block ends well."""
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield partial
        partial.replace(path)
    except OSError as error:
        reason = error.strerror or str(error)
        raise ExportError(
            f"cannot write the file: {reason}",
            where=str(path),
            fix="Make room, or choose another folder with -o",
        ) from error
    finally:
        partial.unlink(missing_ok=True)


def _check_space(path: Path, num_bytes: int) -> None:
    folder = next(parent for parent in (path.parent, *path.parent.parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    if num_bytes > free:
        raise ExportError(
            f"the file takes {num_bytes / 1e9:.1f} GB, but only {free / 1e9:.1f} GB are free",
            where=str(path),
            fix="Free some space, or choose a smaller quantisation",
        )


def _check_written(path: Path, tensors: Sequence[PlannedTensor]) -> None:
    found = read_gguf(path).tensors
    for tensor in tensors:
        stored = found[tensor.name]
        if (stored.shape, stored.type) != (tensor.shape, tensor.kind):
            raise AssertionError(f"{tensor.name} reads back as {stored}")

"""GGUF files: metadata and tensors, read through a memory map.

The header parser is our own. Every count and length is checked against what the file can hold
before anything is allocated, so a damaged or hostile file ends in a `CheckpointError` at once.
Layout (little-endian; https://github.com/ggml-org/ggml/blob/master/docs/gguf.md):

```
"GGUF" | version u32 | num_tensors u64 | num_keys u64
key: string | type u32 | value                                   x num_keys
name: string | num_dims u32 | dims u64[] | type u32 | offset u64   x num_tensors
padding to general.alignment | tensor data
```
"""

from __future__ import annotations

import itertools
import math
import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from gguf import quants
from gguf.constants import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from medimind.errors import CheckpointError

MAGIC = b"GGUF"
VERSIONS = (2, 3)
MAX_ELEMENTS = 1 << 22  # strings and numbers of all metadata together; vocabularies have < 2^20
MAX_KEYS = 1 << 16
MAX_TENSORS = 1 << 17
MAX_DIMS = 4
MAX_DEPTH = 4
DEFAULT_ALIGNMENT = 32
_CHUNK_ELEMENTS = 1 << 20
_STRING, _ARRAY, _BOOL = 8, 9, 7
_SCALARS: Mapping[int, str] = {
    0: "u1",
    1: "i1",
    2: "<u2",
    3: "<i2",
    4: "<u4",
    5: "<i4",
    6: "<f4",
    _BOOL: "u1",
    10: "<u8",
    11: "<i8",
    12: "<f8",
}
_DAMAGED = "The file is damaged or incomplete: fetch it again"


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """Where one tensor lies.

    Attributes:
        name: Name in the file, such as ``blk.0.attn_q.weight``.
        shape: In numpy's order, rows first (the file holds the reverse).
        type: How the values are stored.
        offset: First byte, counted from the start of the file.
        num_bytes: Stored size.
    """

    name: str
    shape: tuple[int, ...]
    type: GGMLQuantizationType
    offset: int
    num_bytes: int


@dataclass(frozen=True, slots=True)
class GgufFile:
    """An open GGUF file; tensor data stays on disk until it is read.

    Attributes:
        path: The file.
        metadata: Key -> int, float, bool, str, or a list of them.
        tensors: Name -> tensor, in the file's order.
    """

    path: Path
    metadata: dict[str, Any]
    tensors: dict[str, GgufTensor]
    _bytes: NDArray[np.uint8]

    def raw(self, name: str) -> NDArray[np.uint8]:
        """The stored bytes of a tensor as a read-only view of the memory map (1-D uint8)."""
        tensor = self._tensor(name)
        return self._bytes[tensor.offset : tensor.offset + tensor.num_bytes]

    def read(self, name: str) -> NDArray[np.float32]:
        """A tensor's values in float32, dequantised, in numpy's shape; a fresh writable array.

        Raises:
            CheckpointError: If there is no such tensor or its type cannot be dequantised.
        """
        tensor = self._tensor(name)
        flat = np.empty(math.prod(tensor.shape), dtype=np.float32)
        self._dequantize_into(flat, tensor, start=0)
        return flat.reshape(tensor.shape)

    def read_rows(self, name: str, *, start: int, stop: int) -> NDArray[np.float32]:
        """Rows ``start`` to ``stop`` of a tensor in float32, without reading the others."""
        tensor = self._tensor(name)
        row_size = math.prod(tensor.shape[1:])
        stop = min(stop, tensor.shape[0])
        flat = np.empty(max(0, stop - start) * row_size, dtype=np.float32)
        self._dequantize_into(flat, tensor, start=start * row_size)
        return flat.reshape(-1, *tensor.shape[1:])

    def _tensor(self, name: str) -> GgufTensor:
        tensor = self.tensors.get(name)
        if tensor is None:
            raise CheckpointError(f"there is no tensor '{name}'", where=str(self.path))
        return tensor

    def _dequantize_into(
        self, flat: NDArray[np.float32], tensor: GgufTensor, *, start: int
    ) -> None:
        block_size, block_bytes = GGML_QUANT_SIZES[tensor.type]
        if start % block_size:
            raise AssertionError("rows are whole blocks")
        for done in range(0, flat.size, _CHUNK_ELEMENTS):
            count = min(_CHUNK_ELEMENTS, flat.size - done)
            first = tensor.offset + (start + done) // block_size * block_bytes
            stored = self._bytes[first : first + count // block_size * block_bytes]
            try:
                # Blocks are independent of rows: one long row spares the loop over 16 rows each.
                # Damaged scales may overflow or be NaN; whoever uses the weights checks that.
                with np.errstate(all="ignore"):
                    values = quants.dequantize(stored.reshape(1, -1), tensor.type)
            except NotImplementedError as error:
                raise CheckpointError(
                    f"tensor '{tensor.name}' has type {tensor.type.name}, which cannot be"
                    " dequantised",
                    where=str(self.path),
                    fix="Take a file of another quantisation, such as Q8_0, Q4_K_M or F16",
                ) from error
            flat[done : done + count] = values.reshape(-1)


def is_gguf(path: Path) -> bool:
    """Whether the file starts as a GGUF file does."""
    try:
        with path.open("rb") as file:
            return file.read(4) == MAGIC
    except OSError:
        return False


def read_gguf(path: Path | str) -> GgufFile:
    """An open GGUF file with its header parsed and checked.

    Raises:
        CheckpointError: If the file cannot be opened, is not GGUF, or its header contradicts
            itself or the file's size.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            size = file.seek(0, 2)
            if size < 24:
                raise CheckpointError(
                    f"only {size} bytes, too short for a GGUF file", where=str(path), fix=_DAMAGED
                )
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise CheckpointError(
            f"cannot open the file: {reason}", where=str(path), fix="Check the path and its rights"
        ) from error
    data = np.frombuffer(mapped, dtype=np.uint8)
    return _HeaderParser(path, mapped, size).parse(data)


class _HeaderParser:
    """Walks the header once, never beyond the end of the file."""

    def __init__(self, path: Path, data: mmap.mmap, size: int) -> None:
        self.path = path
        self.data = data
        self.size = size
        self.at = 0
        self.elements_left = MAX_ELEMENTS

    def parse(self, data: NDArray[np.uint8]) -> GgufFile:
        magic = self._take(4)
        if magic != MAGIC:
            raise CheckpointError(
                f"not a GGUF file (starts with {magic!r})",
                where=str(self.path),
                fix="Give a .gguf file, or a folder with config.json and safetensors",
            )
        version = self._number("<I")
        if version not in VERSIONS:
            big_endian = int.from_bytes(version.to_bytes(4, "little"), "big") in VERSIONS
            detail = "big-endian" if big_endian else f"version {version}"
            raise CheckpointError(
                f"GGUF {detail} is not supported; versions 2 and 3, little-endian, are",
                where=str(self.path),
            )
        num_tensors, num_keys = self._number("<Q"), self._number("<Q")
        self._check_count(num_keys, "metadata keys", least_bytes=13, most=MAX_KEYS)
        self._check_count(num_tensors, "tensors", least_bytes=32, most=MAX_TENSORS)
        metadata: dict[str, Any] = {}
        for _ in range(num_keys):
            key = self._string()
            if key in metadata:
                raise self._error(f"metadata key '{key[:80]}' is there twice")
            metadata[key] = self._value(self._number("<I"), depth=0)
        headers = [self._tensor_header() for _ in range(num_tensors)]
        tensors = self._place(headers, alignment=self._alignment(metadata))
        return GgufFile(self.path, metadata, tensors, data)

    def _error(self, message: str) -> CheckpointError:
        return CheckpointError(message, where=f"{self.path}: byte {self.at}", fix=_DAMAGED)

    def _take(self, count: int) -> bytes:
        if count > self.size - self.at:
            raise self._error(
                f"{count} bytes are announced where {self.size - self.at} are left in the file"
            )
        self.at += count
        return self.data[self.at - count : self.at]

    def _number(self, layout: str) -> int:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))[0]

    def _check_count(self, count: int, what: str, *, least_bytes: int, most: int) -> None:
        if count * least_bytes > self.size - self.at or count > most:
            raise self._error(
                f"{count} {what} are announced in a file of {self.size} bytes"
                f" ({most} are the most that are read)"
            )

    def _string(self) -> str:
        length = self._number("<Q")
        raw = self._take(length)
        try:
            return raw.decode("utf-8")
        except UnicodeDecodeError as error:
            raise self._error("a string is not UTF-8") from error

    def _value(self, kind: int, *, depth: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind == _ARRAY:
            return self._array(depth=depth)
        layout = _SCALARS.get(kind)
        if layout is None:
            raise self._error(f"metadata of unknown type {kind}")
        value = self._numbers(layout, 1)[0]
        return bool(value) if kind == _BOOL else value

    def _array(self, *, depth: int) -> list[Any]:
        kind, count = self._number("<I"), self._number("<Q")
        least = {_STRING: 8, _ARRAY: 12}.get(kind, 1)
        self._check_count(count, "array elements", least_bytes=least, most=self.elements_left)
        self.elements_left -= count
        if kind == _STRING:
            return [self._string() for _ in range(count)]
        if kind == _ARRAY:
            if depth >= MAX_DEPTH:
                raise self._error(f"arrays nested more than {MAX_DEPTH} deep")
            return [self._array(depth=depth + 1) for _ in range(count)]
        layout = _SCALARS.get(kind)
        if layout is None:
            raise self._error(f"metadata array of unknown type {kind}")
        values = self._numbers(layout, count)
        return [bool(value) for value in values] if kind == _BOOL else values

    def _numbers(self, layout: str, count: int) -> list[Any]:
        dtype = np.dtype(layout)
        return np.frombuffer(self._take(count * dtype.itemsize), dtype=dtype).tolist()

    def _tensor_header(self) -> GgufTensor:
        """A tensor whose offset still counts from the start of the tensor data."""
        name = self._string()
        num_dims = self._number("<I")
        if not 1 <= num_dims <= MAX_DIMS:
            raise self._error(f"tensor '{name[:80]}' has {num_dims} dimensions")
        dims = struct.unpack(f"<{num_dims}Q", self._take(8 * num_dims))
        number, offset = self._number("<I"), self._number("<Q")
        try:
            kind = GGMLQuantizationType(number)
            block_size, block_bytes = GGML_QUANT_SIZES[kind]
        except (ValueError, KeyError) as error:
            raise self._error(f"tensor '{name[:80]}' is of unknown type {number}") from error
        if min(dims) < 1 or dims[0] % block_size:
            raise self._error(
                f"tensor '{name[:80]}' of type {kind.name} has the impossible shape {dims}"
            )
        num_bytes = math.prod(dims) // block_size * block_bytes
        if num_bytes > self.size:
            raise self._error(
                f"tensor '{name[:80]}' of shape {dims} takes {num_bytes} bytes in a file of"
                f" {self.size}"
            )
        return GgufTensor(name, tuple(reversed(dims)), kind, offset, num_bytes)

    def _alignment(self, metadata: dict[str, Any]) -> int:
        alignment = metadata.get("general.alignment", DEFAULT_ALIGNMENT)
        is_power = isinstance(alignment, int) and alignment > 0 and not alignment & (alignment - 1)
        if not is_power or alignment > 1 << 20:
            raise self._error(f"general.alignment is {alignment!r}, not a power of two up to 2^20")
        return alignment

    def _place(self, headers: list[GgufTensor], *, alignment: int) -> dict[str, GgufTensor]:
        """Tensors with offsets from the start of the file; all inside it, none overlapping."""
        start = -(-self.at // alignment) * alignment
        tensors: dict[str, GgufTensor] = {}
        for header in headers:
            end = start + header.offset + header.num_bytes
            if header.offset % alignment or end > self.size:
                raise self._error(
                    f"tensor '{header.name[:80]}' would end at byte {end} of a file of {self.size}"
                    if end > self.size
                    else f"tensor '{header.name[:80]}' starts off its {alignment}-byte alignment"
                )
            if header.name in tensors:
                raise self._error(f"tensor '{header.name[:80]}' is there twice")
            tensors[header.name] = GgufTensor(
                header.name, header.shape, header.type, start + header.offset, header.num_bytes
            )
        ordered = sorted(tensors.values(), key=lambda tensor: tensor.offset)
        for before, after in itertools.pairwise(ordered):
            if before.offset + before.num_bytes > after.offset:
                raise self._error(
                    f"tensors '{before.name[:80]}' and '{after.name[:80]}' overlap in the file"
                )
        return tensors

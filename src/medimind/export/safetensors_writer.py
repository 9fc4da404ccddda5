"""Safetensors files written one tensor at a time, so that memory holds one tensor only."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from medimind.errors import ExportError

INDEX = "model.safetensors.index.json"
_NAMES = {torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16"}
_ALIGNMENT = 8


def write_sharded(
    folder: Path,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
    *,
    dtype: torch.dtype,
    max_shard_bytes: int,
) -> list[Path]:
    """Write ``model.safetensors``, or numbered shards with an index where it would be too large.

    Args:
        folder: An existing folder.
        shapes: Name -> shape of every tensor, in the order to be written.
        read: Gives a tensor by name, in any dtype.
        dtype: What the tensors are stored as.
        max_shard_bytes: Largest file; a tensor larger than that gets a file of its own.

    Returns:
        The weights files.

    Raises:
        ExportError: If a value is not finite in ``dtype``.
    """
    shards = _split(shapes, item_bytes=dtype.itemsize, max_shard_bytes=max_shard_bytes)
    if len(shards) == 1:
        _write(folder / "model.safetensors", shapes, read, dtype=dtype)
        return [folder / "model.safetensors"]
    weight_map: dict[str, str] = {}
    files = []
    for number, names in enumerate(shards, start=1):
        file = folder / f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        _write(file, {name: shapes[name] for name in names}, read, dtype=dtype)
        weight_map |= dict.fromkeys(names, file.name)
        files.append(file)
    total = sum(torch.Size(shape).numel() for shape in shapes.values()) * dtype.itemsize
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return files


def _split(
    shapes: Mapping[str, tuple[int, ...]], *, item_bytes: int, max_shard_bytes: int
) -> list[list[str]]:
    shards: list[list[str]] = [[]]
    size = 0
    for name, shape in shapes.items():
        num_bytes = torch.Size(shape).numel() * item_bytes
        if shards[-1] and size + num_bytes > max_shard_bytes:
            shards.append([])
            size = 0
        shards[-1].append(name)
        size += num_bytes
    return shards


def _write(
    file: Path,
    shapes: Mapping[str, tuple[int, ...]],
    read: Callable[[str], Tensor],
    *,
    dtype: torch.dtype,
) -> None:
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for name, shape in shapes.items():
        end = offset + torch.Size(shape).numel() * dtype.itemsize
        header[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(shape),
            "data_offsets": [offset, end],
        }
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    with file.open("wb") as opened:
        opened.write(len(text).to_bytes(8, "little"))
        opened.write(text)
        for name, shape in shapes.items():
            tensor = read(name).detach().to("cpu", dtype).contiguous()
            if tuple(tensor.shape) != shape:
                raise AssertionError(f"{name} is {tuple(tensor.shape)}, not {shape}")
            if not bool(torch.isfinite(tensor).all()):
                raise ExportError(
                    f"tensor '{name}' holds NaN or infinity in {str(dtype).removeprefix('torch.')}",
                    fix="Export in bfloat16 or float32; if that fails too, the adapter is damaged",
                )
            opened.write(tensor.reshape(-1).view(torch.uint8).numpy().data)

"""One view over GGUF files and safetensors: tensors by Hugging Face name, read one at a time."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from medimind.errors import CheckpointError
from medimind.formats.gguf import GgufFile, read_gguf
from medimind.formats.json_file import read_json_object
from medimind.formats.safetensors_file import SafetensorsEntry, read_header, read_rows
from medimind.models.architecture import Architecture
from medimind.models.gguf_names import (
    PERMUTED_ARCHITECTURES,
    ROPE_FACTORS,
    hugging_face_name,
    unpermuted,
)
from medimind.models.stream import StoredTensor

HEAD = "lm_head.weight"
INDEX = "model.safetensors.index.json"
_DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
READABLE_DTYPES = tuple(_DTYPES)
_LISTED = 8
_ROWS_BYTES = 64 << 20  # float32 values of a GGUF tensor held at a time
_MAX_ROPE_FACTORS = 1 << 16
_FETCH = "The checkpoint is damaged or incomplete: fetch it again"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Weights on disk.

    Attributes:
        path: GGUF file or folder.
        architecture: What they are the weights of.
        shapes: Hugging Face name -> shape of everything stored.
        files: The files that hold the weights.
        stored: Where each tensor lies, where its values are stored plainly (safetensors).
    """

    path: Path
    architecture: Architecture
    shapes: Mapping[str, tuple[int, ...]]
    files: tuple[Path, ...]
    _read: Callable[[str, torch.dtype], Tensor]
    _read_rows: Callable[[str, int, int], Tensor]
    stored: Mapping[str, StoredTensor] = field(default_factory=dict)

    def read(self, name: str, *, dtype: torch.dtype) -> Tensor:
        """A tensor on the CPU in ``dtype``, with all values finite.

        Raises:
            CheckpointError: If it holds NaN or infinity, or values beyond ``dtype``'s range.
        """
        if name not in self.shapes:
            raise CheckpointError(f"there is no tensor '{name}'", where=str(self.path), fix=_FETCH)
        tensor = self._read(name, dtype)
        if not bool(all_finite(tensor)):
            raise self.not_finite(name, dtype=dtype)
        return tensor

    def not_finite(self, name: str, *, dtype: torch.dtype) -> CheckpointError:
        """The error about a tensor with values that ``dtype`` cannot hold."""
        return CheckpointError(
            f"tensor '{name}' holds NaN or infinity in {str(dtype).removeprefix('torch.')}",
            where=str(self.path),
            fix="The checkpoint is damaged, or its values need bfloat16 or float32 (model.dtype)",
        )

    def read_rows(self, name: str, *, start: int, stop: int) -> Tensor:
        """Rows ``start`` to ``stop`` of a tensor in float32, as stored, reading nothing else.

        Query and key rows of a GGUF file are reordered within a head, so that there both must be
        multiples of the head's width. Values are not checked.

        Raises:
            CheckpointError: If there is no such tensor, or it cannot be read.
        """
        if name not in self.shapes:
            raise CheckpointError(f"there is no tensor '{name}'", where=str(self.path), fix=_FETCH)
        return self._read_rows(name, start, min(stop, self.shapes[name][0]))

    def check_shapes(self) -> None:
        """Check that every weight of the architecture is there, and nothing else.

        Raises:
            CheckpointError: With the tensors that are missing, of another shape, or unknown.
        """
        if self.architecture.num_layers > len(self.shapes):
            raise CheckpointError(
                f"the configuration names {self.architecture.num_layers} layers, but only"
                f" {len(self.shapes)} tensors are stored",
                where=str(self.path),
                fix=_FETCH,
            )
        expected = weight_shapes(self.architecture)
        missing = [name for name in expected if name not in self.shapes]
        unknown = [name for name in self.shapes if name not in expected and not _is_spare(name)]
        wrong = [
            f"{name} {self.shapes[name]}, not {shape}"
            for name, shape in expected.items()
            if name in self.shapes and self.shapes[name] != shape
        ]
        problems = [
            f"{len(names)} {what} ({_listed(names)})"
            for what, names in (
                ("missing", missing),
                ("of another shape", wrong),
                ("that a " + self.architecture.family + " model does not have", unknown),
            )
            if names
        ]
        if problems:
            raise CheckpointError(
                "the tensors do not fit the configuration: " + "; ".join(problems),
                where=str(self.path),
                fix=_FETCH,
            )


def open_checkpoint(path: Path) -> Checkpoint:
    """The weights of a GGUF file, or of a folder with ``config.json`` and safetensors.

    Nothing but headers is read yet; the shapes have been checked.

    Raises:
        CheckpointError: If a file is missing or damaged, or the architecture is not supported.
    """
    try:
        checkpoint = _open_folder(path) if path.is_dir() else _open_gguf(path)
    except CheckpointError as error:
        if error.where is None:
            raise CheckpointError(error.message, where=str(path), fix=error.fix) from error
        raise
    checkpoint.check_shapes()
    return checkpoint


def all_finite(tensor: Tensor) -> Tensor:
    """Whether no value is NaN or infinite: a scalar on the tensor's device, no copy is made."""
    if not tensor.numel():
        return torch.ones((), dtype=torch.bool, device=tensor.device)
    lowest, highest = torch.aminmax(tensor)
    return torch.isfinite(lowest) & torch.isfinite(highest)


def weight_shapes(architecture: Architecture) -> dict[str, tuple[int, ...]]:
    """Hugging Face name -> shape of every weight, in the order of the layers."""
    a = architecture
    q_width, kv_width = a.num_heads * a.head_dim, a.num_kv_heads * a.head_dim
    attention = {
        "q_proj": (q_width, a.hidden_size, a.qkv_bias),
        "k_proj": (kv_width, a.hidden_size, a.qkv_bias),
        "v_proj": (kv_width, a.hidden_size, a.qkv_bias),
        "o_proj": (a.hidden_size, q_width, a.output_bias),
    }
    mlp = {
        "gate_proj": (a.intermediate_size, a.hidden_size, a.mlp_bias),
        "up_proj": (a.intermediate_size, a.hidden_size, a.mlp_bias),
        "down_proj": (a.hidden_size, a.intermediate_size, a.mlp_bias),
    }
    shapes: dict[str, tuple[int, ...]] = {
        "model.embed_tokens.weight": (a.vocab_size, a.hidden_size)
    }
    for layer in range(a.num_layers):
        prefix = f"model.layers.{layer}"
        shapes[f"{prefix}.input_layernorm.weight"] = (a.hidden_size,)
        for block, projections in (("self_attn", attention), ("mlp", mlp)):
            for name, (outputs, inputs, has_bias) in projections.items():
                shapes[f"{prefix}.{block}.{name}.weight"] = (outputs, inputs)
                if has_bias:
                    shapes[f"{prefix}.{block}.{name}.bias"] = (outputs,)
        if a.qk_norm:
            shapes[f"{prefix}.self_attn.q_norm.weight"] = (a.head_dim,)
            shapes[f"{prefix}.self_attn.k_norm.weight"] = (a.head_dim,)
        shapes[f"{prefix}.post_attention_layernorm.weight"] = (a.hidden_size,)
    shapes["model.norm.weight"] = (a.hidden_size,)
    if not a.tied_head:
        shapes[HEAD] = (a.vocab_size, a.hidden_size)
    return shapes


def _is_spare(name: str) -> bool:
    """A stored tensor that is derived from others: a tied head, tables of the rotary embedding."""
    return name == HEAD or name.endswith("rotary_emb.inv_freq")


def _listed(names: list[str]) -> str:
    shown = ", ".join(name[:120] for name in names[:_LISTED])
    return f"{shown}, ..." if len(names) > _LISTED else shown


def _open_gguf(path: Path) -> Checkpoint:
    file = read_gguf(path)
    architecture = Architecture.from_gguf(
        file.metadata,
        tensor_names=file.tensors,
        rope_factors=_rope_factors(file),
        where=str(path),
    )
    names = {hugging_face_name(name): name for name in file.tensors if name != ROPE_FACTORS}
    permuted_heads = {}
    if file.metadata["general.architecture"] in PERMUTED_ARCHITECTURES:
        permuted_heads = {
            ".self_attn.q_proj": architecture.num_heads,
            ".self_attn.k_proj": architecture.num_kv_heads,
        }

    def read(name: str, dtype: torch.dtype) -> Tensor:
        stored = file.tensors[names[name]]
        tensor = torch.empty(stored.shape, dtype=dtype)
        row_bytes = max(1, 4 * tensor.numel() // stored.shape[0])
        step = max(1, _ROWS_BYTES // row_bytes)
        for start in range(0, stored.shape[0], step):
            rows = file.read_rows(stored.name, start=start, stop=start + step)
            tensor[start : start + step] = torch.from_numpy(rows)
        for projection, num_heads in permuted_heads.items():
            if projection in name:
                return unpermuted(tensor, num_heads=num_heads)
        return tensor

    def read_rows(name: str, start: int, stop: int) -> Tensor:
        rows = torch.from_numpy(file.read_rows(names[name], start=start, stop=stop))
        if any(projection in name for projection in permuted_heads):
            return unpermuted(rows, num_heads=(stop - start) // architecture.head_dim)
        return rows

    shapes = {name: file.tensors[stored].shape for name, stored in names.items()}
    return Checkpoint(path, architecture, shapes, (path,), read, read_rows)


def _rope_factors(file: GgufFile) -> list[float] | None:
    tensor = file.tensors.get(ROPE_FACTORS)
    if tensor is None:
        return None
    values = file.read_rows(ROPE_FACTORS, start=0, stop=_MAX_ROPE_FACTORS).reshape(-1)
    factors = values.tolist()
    if len(tensor.shape) != 1 or not all(0 < factor < float("inf") for factor in factors):
        raise CheckpointError(
            f"the factors of the rotary embedding ({ROPE_FACTORS}) are not positive numbers",
            where=str(file.path),
            fix=_FETCH,
        )
    return factors


def _open_folder(folder: Path) -> Checkpoint:
    config_path = folder / "config.json"
    config = read_json_object(config_path)
    architecture = Architecture.from_config_json(config, where=str(config_path))
    entries = _folder_entries(folder)
    for file, entry in entries.values():
        if entry.dtype not in READABLE_DTYPES:
            raise CheckpointError(
                f"tensor '{entry.name[:120]}' is stored as {entry.dtype}; weights are read from"
                f" {', '.join(READABLE_DTYPES)}",
                where=str(file),
                fix="Take the model's unquantised checkpoint",
            )

    def read(name: str, dtype: torch.dtype) -> Tensor:
        return read_tensor(entries[name][0], name).to(dtype)

    def rows(name: str, start: int, stop: int) -> Tensor:
        file, entry = entries[name]
        stored = read_rows(file, entry, start=start, stop=stop, error=CheckpointError)
        values = torch.from_numpy(stored).view(_DTYPES[entry.dtype])
        return values.view(stop - start, *entry.shape[1:]).float()

    shapes = {name: entry.shape for name, (_, entry) in entries.items()}
    files = tuple(sorted({file for file, _ in entries.values()}))
    stored = {
        name: StoredTensor(
            name, file, entry.offset, entry.num_bytes, _DTYPES[entry.dtype], entry.shape
        )
        for name, (file, entry) in entries.items()
    }
    return Checkpoint(folder, architecture, shapes, files, read, rows, stored)


def read_tensor(file: Path, name: str) -> Tensor:
    """A tensor of a safetensors file as stored, on the CPU, independent of the file.

    Raises:
        CheckpointError: If the ``safetensors`` package refuses the file.
    """
    try:
        with safe_open(str(file), framework="pt", device="cpu") as opened:
            return opened.get_tensor(name)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(
            f"tensor '{name[:120]}' cannot be read: {str(error)[:200]}", where=str(file), fix=_FETCH
        ) from error


def _folder_entries(folder: Path) -> dict[str, tuple[Path, SafetensorsEntry]]:
    """Tensor name -> the file that holds it, and where."""
    index = folder / INDEX
    if index.is_file():
        return _indexed_entries(folder, index)
    files = sorted(
        file for file in folder.glob("*.safetensors") if not file.name.startswith("consolidated")
    )
    if not files:
        raise CheckpointError(
            "the folder holds no .safetensors file",
            where=str(folder),
            fix="Fetch the weights in that format, or give a .gguf file",
        )
    entries: dict[str, tuple[Path, SafetensorsEntry]] = {}
    for file in files:
        for name, entry in read_header(file).tensors.items():
            if name in entries:
                raise CheckpointError(
                    f"tensor '{name[:120]}' is in {entries[name][0].name} too",
                    where=str(file),
                    fix=f"Keep the files of one checkpoint, or add {INDEX}",
                )
            entries[name] = (file, entry)
    return entries


def _indexed_entries(folder: Path, index: Path) -> dict[str, tuple[Path, SafetensorsEntry]]:
    weight_map = read_json_object(index).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError("'weight_map' is not a map of tensors", where=str(index), fix=_FETCH)
    shards = {str(shard) for shard in weight_map.values()}
    outside = [shard for shard in shards if not _is_plain_name(shard)]
    missing = [s for s in sorted(shards - set(outside)) if not (folder / s).is_file()]
    if outside or missing:
        raise CheckpointError(
            f"the index names files that are not in the folder: {_listed(outside + missing)}",
            where=str(index),
            fix=_FETCH,
        )
    headers = {shard: read_header(folder / shard).tensors for shard in sorted(shards)}
    lost = [name for name, shard in weight_map.items() if name not in headers[str(shard)]]
    if lost:
        raise CheckpointError(
            f"tensors are not in the files that the index names: {_listed(lost)}",
            where=str(index),
            fix=_FETCH,
        )
    return {
        name: (folder / str(shard), headers[str(shard)][name]) for name, shard in weight_map.items()
    }


def _is_plain_name(name: str) -> bool:
    return name.endswith(".safetensors") and Path(name).name == name and "\0" not in name

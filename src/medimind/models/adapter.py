"""Adapters as PEFT files: written whole or not at all, and trusted only after every check.

```
adapter/
  adapter_config.json          what peft, vLLM and others read
  adapter_model.safetensors    float32, base_model.model.<projection>.lora_{A,B}.weight
  manifest.json                SHA-256 of both files, and of the base model's weights
```
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from medimind.errors import AdapterError, CheckpointError
from medimind.formats.folder import atomic_folder, check_manifest, write_manifest
from medimind.formats.json_file import read_json_object
from medimind.formats.safetensors_file import SafetensorsEntry, read_header
from medimind.models.adapter_config import peft_config, read_spec
from medimind.models.architecture import PROJECTIONS
from medimind.models.checkpoint import READABLE_DTYPES, read_tensor
from medimind.models.decoder import Decoder
from medimind.models.lora import PEFT_PREFIX, LoraSpec, attach_lora, lora_parameters

logger = logging.getLogger(__name__)

CONFIG = "adapter_config.json"
WEIGHTS = "adapter_model.safetensors"
_LISTED = 6


def save_adapter(
    folder: Path,
    decoder: Decoder,
    *,
    base_model_name: str,
    revision: str | None = None,
    base_sha256: str | None = None,
) -> None:
    """Write the attached adapter as a folder that PEFT loads.

    Args:
        folder: Where it goes; replaced whole if it is there.
        decoder: The decoder with the adapter.
        base_model_name: Name, hub id or path of the base model.
        revision: Commit of the base model on the hub.
        base_sha256: Digest of the base model's weights; `load_adapter` compares it.

    Raises:
        AdapterError: If no adapter is attached, a value is not finite, or the disk is not writable.
    """
    if decoder.lora is None:
        raise AdapterError("no adapter is attached", where=str(folder))
    tensors = {
        name: parameter.detach().to("cpu", torch.float32).contiguous()
        for name, parameter in lora_parameters(decoder).items()
    }
    _check_finite(tensors, where=str(folder), fix="Train again with a lower learning rate")
    config = peft_config(decoder.lora, base_model_name=base_model_name, revision=revision)
    with atomic_folder(folder, error=AdapterError) as fresh:
        text = json.dumps(config, indent=2, ensure_ascii=False) + "\n"
        (fresh / CONFIG).write_text(text, encoding="utf-8")
        save_file(
            {name: tensor.clone() for name, tensor in tensors.items()},
            str(fresh / WEIGHTS),
            metadata={"format": "pt"},
        )
        write_manifest(fresh, notes={"base_model_sha256": base_sha256})


def load_adapter(
    folder: Path,
    decoder: Decoder,
    *,
    base_model_name: str | None = None,
    base_sha256: str | None = None,
) -> LoraSpec:
    """Attach the adapter of a folder, ours or PEFT's, to a decoder.

    Everything is checked before the decoder is touched. An adapter of the same shape that is
    attached already gets the folder's values.

    Args:
        folder: A PEFT folder.
        decoder: The base model.
        base_model_name: The base model's name; another name in the folder is warned of.
        base_sha256: Digest of the base model's weights; another digest in the folder is an error.

    Raises:
        AdapterError: If a file is missing or damaged, the adapter is of a kind or for a model that
            does not fit, a value is not finite, or a tensor would not be used.
    """
    widths = {name: (p.in_features, p.out_features) for name, p in decoder.projections()}
    spec, tensors = read_adapter(
        folder, widths, base_model_name=base_model_name, base_sha256=base_sha256
    )
    if decoder.lora is None:
        attach_lora(
            decoder,
            rank=spec.rank,
            alpha=spec.alpha,
            dropout=spec.dropout,
            rslora=spec.rslora,
            targets=spec.targets,
            seed=0,
        )
    elif decoder.lora != spec:
        raise AdapterError(
            f"another adapter is attached already ({decoder.lora}), which this one ({spec})"
            " does not fit",
            where=str(folder),
            fix="Load the base model again",
        )
    with torch.no_grad():
        for name, parameter in lora_parameters(decoder).items():
            parameter.copy_(tensors[name])
    if adapter_norm(decoder) == 0:
        logger.warning("%s: this adapter changes nothing (its update is zero everywhere)", folder)
    return spec


def read_adapter(
    folder: Path,
    widths: Mapping[str, tuple[int, int]],
    *,
    base_model_name: str | None = None,
    base_sha256: str | None = None,
) -> tuple[LoraSpec, dict[str, Tensor]]:
    """The adapter of a folder, ours or PEFT's, after every check against its base model.

    Args:
        folder: A PEFT folder.
        widths: Inputs and outputs of each projection of the base model, by Hugging Face name
            (``model.layers.0.self_attn.q_proj``).
        base_model_name: As for `load_adapter`.
        base_sha256: As for `load_adapter`.

    Returns:
        Its shape, and its tensors in float32 under PEFT's names.

    Raises:
        AdapterError: As for `load_adapter`.
    """
    spec, targets, notes = _read_config(folder)
    _check_base(folder, notes, base_model_name=base_model_name, base_sha256=base_sha256)
    weights = _weights_file(folder)
    entries = read_header(weights, error=AdapterError).tensors
    spec = _fit(spec, targets, entries, widths, where=str(weights))
    return spec, _read_all(weights, entries)


@torch.no_grad()
def adapter_norm(decoder: Decoder) -> float:
    """Frobenius norm of all updates ``scaling * B A`` together; 0 where nothing was learned.

    ``|B A|^2 = trace(B^T B A A^T)``, so that no full-size matrix is made.
    """
    total = 0.0
    for _, projection in decoder.projections():
        if projection.lora_a is not None and projection.lora_b is not None:
            a_RD, b_OR = projection.lora_a.double(), projection.lora_b.double()
            squared = ((b_OR.T @ b_OR) * (a_RD @ a_RD.T)).sum().item()
            total += projection.scaling**2 * max(squared, 0.0)
    return math.sqrt(total)


def check_adapter(folder: Path) -> None:
    """Check an adapter's files as far as that goes without its base model.

    Raises:
        AdapterError: As for `load_adapter`.
    """
    _read_config(folder)
    weights = _weights_file(folder)
    _read_all(weights, read_header(weights, error=AdapterError).tensors)


def _read_config(
    folder: Path,
) -> tuple[LoraSpec, frozenset[str] | None, dict[str, object]]:
    """Shape, listed projections, and what was noted about the base model."""
    if not folder.is_dir():
        raise AdapterError(
            "there is no such adapter folder",
            where=str(folder),
            fix="Give a folder with adapter_config.json, such as runs/NAME/adapter",
        )
    notes = check_manifest(folder, error=AdapterError)
    config = read_json_object(folder / CONFIG, error=AdapterError, max_bytes=1 << 20)
    spec, targets = read_spec(config, where=str(folder / CONFIG))
    return spec, targets, {**notes, "base_model_name": config.get("base_model_name_or_path")}


def _weights_file(folder: Path) -> Path:
    weights = folder / WEIGHTS
    if not weights.is_file() and (folder / "adapter_model.bin").is_file():
        raise AdapterError(
            "the weights are pickled (adapter_model.bin)",
            where=str(folder),
            fix="Pickled weights can run code when they are read and are never opened: save the"
            " adapter again as safetensors",
        )
    return weights


def _check_base(
    folder: Path,
    notes: dict[str, object],
    *,
    base_model_name: str | None,
    base_sha256: str | None,
) -> None:
    noted, name = notes.get("base_model_sha256"), notes.get("base_model_name")
    if noted and base_sha256:
        if noted != base_sha256:
            raise AdapterError(
                f"the adapter was trained on {name!r:.120} with weights {str(noted)[:12]}; this"
                f" model ({base_model_name or 'unnamed'}) has weights {base_sha256[:12]}",
                where=str(folder),
                fix="Give the base model that the adapter was trained on",
            )
    elif name and base_model_name and name != base_model_name:
        logger.warning(
            "%s: the adapter names the base model %r; it is attached to %r",
            folder,
            str(name)[:120],
            base_model_name,
        )


def _fit(
    spec: LoraSpec,
    listed: frozenset[str] | None,
    entries: Mapping[str, SafetensorsEntry],
    widths: Mapping[str, tuple[int, int]],
    *,
    where: str,
) -> LoraSpec:
    """The adapter's shape with its targets, after every stored tensor was found to have a place."""
    stored = {
        module.rsplit(".", 1)[-1]
        for name in entries
        for module, part, _ in (name.removeprefix(PEFT_PREFIX).partition(".lora_"),)
        if part
    }
    targets = tuple(name for name in PROJECTIONS if name in (listed or stored))
    expected: dict[str, tuple[int, ...]] = {}
    for name, (inputs, outputs) in widths.items():
        if name.rsplit(".", 1)[-1] in targets:
            prefix = PEFT_PREFIX + name
            expected[f"{prefix}.lora_A.weight"] = (spec.rank, inputs)
            expected[f"{prefix}.lora_B.weight"] = (outputs, spec.rank)
    wrong = [
        f"{name} is {entry.shape}, not {expected[name]}"
        for name, entry in entries.items()
        if name in expected and entry.shape != expected[name]
    ]
    wrong += [
        f"{entry.name} is stored as {entry.dtype}"
        for entry in entries.values()
        if entry.dtype not in READABLE_DTYPES
    ]
    problems = [
        f"{len(names)} tensors {what} ({_listed(names)})"
        for what, names in (
            ("are missing", [name for name in expected if name not in entries]),
            ("have no place in this model", [name for name in entries if name not in expected]),
            ("are of another shape or type", wrong),
        )
        if names
    ]
    if problems or not expected:
        raise AdapterError(
            "the adapter does not fit this base model: " + ("; ".join(problems) or "it is empty"),
            where=where,
            fix="Give the base model that the adapter was trained on",
        )
    return LoraSpec(spec.rank, spec.alpha, spec.dropout, spec.rslora, targets)


def _listed(names: list[str]) -> str:
    shown = ", ".join(name[:120] for name in names[:_LISTED])
    return f"{shown}, ..." if len(names) > _LISTED else shown


def _read_all(weights: Path, entries: Mapping[str, SafetensorsEntry]) -> dict[str, Tensor]:
    """All tensors in float32 on the CPU, with finite values."""
    try:
        tensors = {name: read_tensor(weights, name).to(torch.float32) for name in entries}
    except CheckpointError as error:
        raise AdapterError(error.message, where=error.where, fix=error.fix) from error
    _check_finite(tensors, where=str(weights), fix="Take another checkpoint of the training run")
    return tensors


def _check_finite(tensors: Mapping[str, Tensor], *, where: str, fix: str) -> None:
    broken = [name for name, tensor in tensors.items() if not bool(torch.isfinite(tensor).all())]
    if broken:
        raise AdapterError(
            f"{len(broken)} of {len(tensors)} tensors hold NaN or infinity ({_listed(broken)})",
            where=where,
            fix=fix,
        )

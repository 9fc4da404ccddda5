"""What the app tells of the model: facts of the files, each ``null`` where it is not known."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gguf.constants import LlamaFileType
from pydantic import BaseModel

from medimind.engines.engine import NOTICE, Variant
from medimind.formats.gguf import read_gguf
from medimind.serving.device_files import DeviceFile, DeviceFiles

_MOST_TEXT = 400


class ModelFacts(BaseModel):
    """The model."""

    name: str
    family: str | None = None
    quantization: str | None = None
    bytes: int | None = None
    parameters: int | None = None
    context: int | None = None
    license: str | None = None
    base_model: str | None = None
    sources: list[str] = []


class AdapterFacts(BaseModel):
    """The adapter."""

    name: str
    bytes: int


class EngineFacts(BaseModel):
    """What answers."""

    kind: str
    ready: bool


class LimitFacts(BaseModel):
    """Bounds that a client may want to know."""

    max_tokens: int
    max_body_bytes: int
    max_messages: int
    max_forecast_bytes: int


class AboutReply(BaseModel):
    """All of it."""

    version: str
    model: ModelFacts
    adapter: AdapterFacts | None
    variants: list[Variant]
    engine: EngineFacts
    limits: LimitFacts
    device_files: list[DeviceFile]
    chat_template: str | None = None
    report: bool
    forecast: bool
    notice: str = NOTICE


@dataclass(frozen=True, slots=True)
class About:
    """Facts that do not change while the server runs.

    Attributes:
        model: The model.
        adapter: Its adapter.
        files: What devices may fetch.
        chat_template: Jinja source that devices render chats by, where it is not the file's own.
    """

    model: ModelFacts
    adapter: AdapterFacts | None = None
    files: DeviceFiles = field(default_factory=DeviceFiles)
    chat_template: str | None = None


def read_facts(path: Path, *, context: int) -> ModelFacts:
    """What a GGUF file says of itself.

    Raises:
        CheckpointError: If it is damaged.
    """
    file = read_gguf(path)
    keys = file.metadata
    return ModelFacts(
        name=_text(keys, "general.name") or path.stem,
        family=_text(keys, "general.architecture"),
        quantization=_quantization(keys.get("general.file_type")),
        bytes=path.stat().st_size,
        parameters=sum(math.prod(tensor.shape) for tensor in file.tensors.values()),
        context=context,
        license=_text(keys, "general.license.name") or _text(keys, "general.license"),
        base_model=_text(keys, "general.base_model.0.name"),
        sources=_sources(keys),
    )


def adapter_facts(path: Path) -> AdapterFacts:
    """An adapter's name and size."""
    return AdapterFacts(name=path.name, bytes=path.stat().st_size)


def _sources(keys: dict[str, Any]) -> list[str]:
    """Links that the file gives to where it comes from; only those a person can open safely."""
    names = [
        "general.base_model.0.repo_url",
        "general.source.repo_url",
        "general.repo_url",
        "general.url",
        "general.license.link",
    ]
    links = [_text(keys, name) for name in names]
    return list(dict.fromkeys(one for one in links if one and one.startswith("https://")))


def _quantization(file_type: Any) -> str | None:
    try:
        name = LlamaFileType(file_type).name
    except ValueError:
        return None
    return name.removeprefix("MOSTLY_").removeprefix("ALL_").lower()


def _text(keys: dict[str, Any], name: str) -> str | None:
    value = keys.get(name)
    return value[:_MOST_TEXT] if isinstance(value, str) and value.strip() else None

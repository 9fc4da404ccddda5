"""A GGUF header checked before llama.cpp sees it.

llama.cpp ends the whole process (``GGML_ASSERT``) where some numbers of a header make no sense, and
with it a server that answers others. So they are checked here against each other and against the
tensors, without torch.
"""

from __future__ import annotations

import math
import re
from typing import Any

from medimind.errors import CheckpointError
from medimind.formats.gguf import GgufFile

MOST_LAYERS = 512  # llama.cpp's LLAMA_MAX_LAYERS
_MOST = 1 << 26
_COUNTS = (
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "attention.key_length",
    "attention.value_length",
    "rope.dimension_count",
    "vocab_size",
)
_POSITIVE = ("attention.layer_norm_rms_epsilon", "rope.freq_base", "rope.scaling.factor")
_LAYER = re.compile(r"blk\.(\d+)\.")
_EMBEDDING = "token_embd.weight"
_DAMAGED = "The file is damaged: fetch it again, or export it again"


def check_header(file: GgufFile) -> None:
    """Refuse a model whose header contradicts itself or its tensors.

    Raises:
        CheckpointError: With the key.
    """
    name = file.metadata.get("general.architecture")
    if not isinstance(name, str):
        raise _error(file, "the header names no architecture")
    values = {
        key: file.metadata[f"{name}.{key}"]
        for key in (*_COUNTS, *_POSITIVE, "block_count")
        if f"{name}.{key}" in file.metadata
    }
    for key in _COUNTS:
        # Some families give a count for each layer.
        given = values.get(key, 1)
        for value in given if isinstance(given, list) else [given]:
            if not _is_count(value):
                raise _error(file, f"'{name}.{key}' is {value!r:.40}")
    for key in _POSITIVE:
        value = values.get(key, 1.0)
        if not isinstance(value, int | float) or not 0 < value < math.inf:
            raise _error(file, f"'{name}.{key}' is {value!r:.40}")
    _check_heads(file, values, name)
    _check_layers(file, values.get("block_count"), name)
    _check_embedding(file, values, name)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 < value <= _MOST


def _check_heads(file: GgufFile, values: dict[str, Any], name: str) -> None:
    heads, kv_heads = values.get("attention.head_count"), values.get("attention.head_count_kv")
    if isinstance(heads, int) and isinstance(kv_heads, int) and heads % kv_heads:
        raise _error(file, f"'{name}': {heads} query heads cannot share {kv_heads} key heads")
    width = values.get("attention.key_length")
    turned = values.get("rope.dimension_count")
    if isinstance(turned, int) and (turned % 2 or (isinstance(width, int) and turned > width)):
        raise _error(file, f"'{name}.rope.dimension_count' is {turned} for heads of {width}")


def _check_layers(file: GgufFile, count: Any, name: str) -> None:
    found = {int(match[1]) for tensor in file.tensors if (match := _LAYER.match(tensor))}
    is_whole = found == set(range(len(found)))
    if not is_whole or count != len(found) or not 0 < len(found) <= MOST_LAYERS:
        raise _error(
            file, f"'{name}.block_count' is {count!r:.40} for tensors of {len(found)} layers"
        )


def _check_embedding(file: GgufFile, values: dict[str, Any], name: str) -> None:
    embedding = file.tensors.get(_EMBEDDING)
    if embedding is None:
        raise _error(file, f"there is no tensor '{_EMBEDDING}'")
    tokens = file.metadata.get("tokenizer.ggml.tokens")
    rows, width = embedding.shape[0], embedding.shape[-1]
    for what, value, expected in (
        (f"'{name}.embedding_length' is", values.get("embedding_length"), width),
        (f"'{name}.vocab_size' is", values.get("vocab_size", rows), rows),
    ):
        if value != expected:
            raise _error(file, f"{what} {value!r:.40}, but '{_EMBEDDING}' is {embedding.shape}")
    if isinstance(tokens, list) and len(tokens) > rows:
        raise _error(file, f"there are {len(tokens)} tokens for {rows} rows of '{_EMBEDDING}'")


def _error(file: GgufFile, message: str) -> CheckpointError:
    return CheckpointError(message, where=str(file.path), fix=_DAMAGED)

"""A checkpoint's tokenizer as the keys ``tokenizer.*`` of a GGUF header.

llama.cpp cuts text by rules of its own that a name stands for (``tokenizer.ggml.pre``). A wrong
name gives other token ids without any error, so that a tokenizer whose rules are not exactly those
of a known name is refused.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import models

from medimind.errors import ExportError
from medimind.formats.gguf import read_gguf
from medimind.prompts.sentencepiece_bpe import BYTES, merges_of, scores_of, space_prefix_of
from medimind.prompts.tokenizer_definition import TokenizerDefinition
from medimind.prompts.tokenizer_folder import read_folder
from medimind.prompts.tokenizer_gguf import PRE_TOKENIZERS, TokenType

PREFIX = "tokenizer."
# Names that stand for the same rules; the first is the one that llama.cpp's converter writes.
_WRITTEN_NAMES = ("llama-bpe", "qwen2", "deepseek-r1-qwen", "smollm", "gpt-2")
_LOOKS_SPECIAL = re.compile(r"<\|.*\|>|<｜.*｜>|<unused.*>|<pad>|<mask>", re.DOTALL)


def tokenizer_metadata(model: Path, *, vocab_size: int) -> dict[str, Any]:
    """Keys and values of the tokenizer, for a model of ``vocab_size`` rows.

    A GGUF file's own keys are taken as they are. The vocabulary is filled up to ``vocab_size``
    with unused tokens.

    Args:
        model: A folder with ``tokenizer.json``, or a GGUF file.
        vocab_size: Rows of the embedding.

    Raises:
        ExportError: If llama.cpp has no name for the way the tokenizer cuts text, it is no
            byte-level BPE, or it has more tokens than the model.
        PromptError: If the tokenizer's files are missing or damaged.
    """
    if model.is_file():
        metadata = read_gguf(model).metadata
        found = {key: value for key, value in metadata.items() if key.startswith(PREFIX)}
        num_tokens = len(found.get("tokenizer.ggml.tokens", ()))
        if num_tokens != vocab_size:
            raise ExportError(
                f"the file names {num_tokens} tokens for {vocab_size} rows of the embedding",
                where=str(model),
            )
        return found
    return metadata_of(read_folder(model), vocab_size=vocab_size)


def metadata_of(definition: TokenizerDefinition, *, vocab_size: int) -> dict[str, Any]:
    """Keys and values of a tokenizer; see `tokenizer_metadata`."""
    state = json.loads(definition.backend.to_str())
    tokens, types = _vocabulary(definition, vocab_size=vocab_size)
    prefix = space_prefix_of(state)
    if prefix is None:
        metadata: dict[str, Any] = {
            "tokenizer.ggml.model": "gpt2",
            "tokenizer.ggml.pre": pre_tokenizer_name(state, where=definition.where),
            "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": types,
            "tokenizer.ggml.merges": [" ".join(pair) for pair in _merges(state)],
        }
    else:
        metadata = _sentencepiece(state, tokens, types, where=definition.where)
        metadata["tokenizer.ggml.add_space_prefix"] = prefix
    for key, token in (
        ("bos", definition.bos),
        ("eos", definition.eos),
        ("padding", definition.pad),
    ):
        token_id = None if token is None else definition.backend.token_to_id(token)
        if token_id is not None:
            metadata[f"tokenizer.ggml.{key}_token_id"] = token_id
    metadata["tokenizer.ggml.add_bos_token"] = definition.adds_bos
    if definition.chat_template:
        metadata["tokenizer.chat_template"] = definition.chat_template
    return metadata


def _sentencepiece(
    state: dict[str, Any], tokens: list[str], types: list[int], *, where: str
) -> dict[str, Any]:
    unknown = state["model"].get("unk_token")
    for token_id, token in enumerate(tokens):
        if token in BYTES:
            types[token_id] = int(TokenType.BYTE)
        elif token == unknown:
            types[token_id] = int(TokenType.UNKNOWN)
    merges = _merges(state)
    scores = scores_of(tokens, merges)
    plain = [i for i, kind in enumerate(types) if kind == TokenType.NORMAL]
    if merges_of(tokens, scores, plain=plain) != _by_piece(merges, tokens, scores):
        raise ExportError(
            "the tokenizer's merges are not all ways to make its pieces, which llama.cpp assumes",
            where=where,
            fix="Use the merged safetensors",
        )
    metadata: dict[str, Any] = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores,
        "tokenizer.ggml.token_type": types,
    }
    if unknown is not None:
        metadata["tokenizer.ggml.unknown_token_id"] = tokens.index(unknown)
    return metadata


def _by_piece(
    merges: list[tuple[str, str]], tokens: list[str], scores: list[float]
) -> list[tuple[str, str]]:
    """Merges in the order of what they make, pairs of one piece by the ids of their parts."""
    ids = {token: token_id for token_id, token in enumerate(tokens)}
    return sorted(
        merges, key=lambda pair: (-scores[ids[pair[0] + pair[1]]], ids[pair[0]], ids[pair[1]])
    )


def _merges(state: dict[str, Any]) -> list[tuple[str, str]]:
    found = []
    for merge in state["model"]["merges"]:
        left, right = merge.split(" ") if isinstance(merge, str) else merge
        found.append((left, right))
    return found


def pre_tokenizer_name(state: dict[str, Any], *, where: str) -> str:
    """llama.cpp's name for the way a tokenizer cuts text before its merges apply.

    Args:
        state: Content of ``tokenizer.json``.
        where: The folder, for errors.

    Raises:
        ExportError: If it is no byte-level BPE, or there is no such name.
    """
    model = state["model"]
    if model.get("type") != "BPE" or model.get("byte_fallback") or model.get("unk_token"):
        raise ExportError(
            f"the tokenizer is of kind {model.get('type')}"
            f"{' with byte fallback' if model.get('byte_fallback') else ''} by rules llama.cpp "
            "has no name for",
            where=where,
            fix="Use the merged safetensors",
        )
    found = _rules(state)
    for name in _WRITTEN_NAMES:
        rules = PRE_TOKENIZERS[name]
        backend = tokenizers.Tokenizer(models.BPE(ignore_merges=rules.ignore_merges))
        backend.pre_tokenizer = rules.build()
        if rules.nfc:
            backend.normalizer = tokenizers.normalizers.NFC()
        if _rules(json.loads(backend.to_str())) == found:
            return name
    raise ExportError(
        f"the tokenizer cuts text by rules that are not known: {json.dumps(found)[:400]}",
        where=where,
        fix=f"Known are: {', '.join(_WRITTEN_NAMES)}. Use the merged safetensors",
    )


def _rules(state: dict[str, Any]) -> list[Any]:
    """Everything that decides how text is cut and normalised, in a form that compares equal."""
    merges = bool(state["model"].get("ignore_merges"))
    return [merges, _steps(state.get("normalizer")), _steps(state.get("pre_tokenizer"))]


def _steps(part: dict[str, Any] | None) -> list[dict[str, Any]]:
    if part is None:
        return []
    if part.get("type") == "Sequence":
        inner = part.get("pretokenizers") or part.get("normalizers") or []
        return [step for one in inner for step in _steps(one)]
    # trim_offsets changes where tokens are said to lie in the text, not which they are.
    return [{key: value for key, value in part.items() if key != "trim_offsets"}]


def _vocabulary(definition: TokenizerDefinition, *, vocab_size: int) -> tuple[list[str], list[int]]:
    """Token texts and types, by id; ids without a token are filled with unused ones."""
    by_id = {i: token for token, i in definition.backend.get_vocab(with_added_tokens=True).items()}
    if by_id and max(by_id) >= vocab_size:
        raise ExportError(
            f"the tokenizer has a token of id {max(by_id)}, the embedding only {vocab_size} rows",
            where=definition.where,
            fix="Take the weights and the tokenizer from the same checkpoint",
        )
    added = definition.backend.get_added_tokens_decoder()
    tokens, types = [], []
    for token_id in range(vocab_size):
        token = by_id.get(token_id)
        if token is None:
            tokens.append(f"[PAD{token_id}]")
            types.append(int(TokenType.UNUSED))
            continue
        tokens.append(token)
        if token_id not in added:
            types.append(int(TokenType.NORMAL))
        elif added[token_id].special or _LOOKS_SPECIAL.fullmatch(token):
            types.append(int(TokenType.CONTROL))
        else:
            types.append(int(TokenType.USER_DEFINED))
    return tokens, types

"""Tokenizers of the SentencePiece kind, as Llama 2 and Mistral 7B have them, in GGUF's terms.

A GGUF holds a score for each piece, and llama.cpp joins whatever neighbours give the best piece;
``tokenizers`` holds the same as a ranked list of merges. One follows from the other where the
merges are all ways to make each piece from two others, as in the published files.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers

SPACE = "▁"
_PREPEND = {"type": "Prepend", "prepend": SPACE}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
_METASPACE = {
    "type": "Metaspace",
    "replacement": SPACE,
    "prepend_scheme": "always",
    "split": False,
}
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))


def merges_of(
    tokens: Sequence[str], scores: Sequence[float], *, plain: Collection[int]
) -> list[tuple[str, str]]:
    """All pairs of pieces that make another, best first.

    Args:
        tokens: Texts by id.
        scores: Of each; higher is joined first.
        plain: Ids of ordinary pieces; others are neither made nor joined.
    """
    ids = {tokens[token_id]: token_id for token_id in plain}
    found = []
    for token_id in plain:
        piece = tokens[token_id]
        for cut in range(1, len(piece)):
            left, right = piece[:cut], piece[cut:]
            if left in ids and right in ids:
                order = (-scores[token_id], ids[left], ids[right])
                found.append((order, (left, right)))
    return [pair for _, pair in sorted(found, key=lambda one: one[0])]


def scores_of(tokens: Sequence[str], merges: Sequence[tuple[str, str]]) -> list[float]:
    """A score for each token, from the rank of the first merge that makes it."""
    rank: dict[str, int] = {}
    for index, (left, right) in enumerate(merges):
        rank.setdefault(left + right, index)
    return [-float(rank.get(token, len(merges))) for token in tokens]


def build_backend(
    vocabulary: Mapping[str, int],
    merges: Sequence[tuple[str, str]],
    *,
    unknown: str | None,
    space_prefix: bool,
) -> tokenizers.Tokenizer:
    """The tokenizer: pieces joined by rank, what no piece covers as bytes.

    Args:
        vocabulary: Token -> id.
        merges: Best first.
        unknown: Text of the unknown token.
        space_prefix: Whether a space is put before a text and after each control token.
    """
    model = models.BPE(
        vocab=dict(vocabulary),
        merges=list(merges),
        unk_token=unknown,
        fuse_unk=True,
        byte_fallback=True,
    )
    backend = tokenizers.Tokenizer(model)
    first = [normalizers.Prepend(SPACE)] if space_prefix else []
    backend.normalizer = normalizers.Sequence([*first, normalizers.Replace(" ", SPACE)])
    strip = [decoders.Strip(" ", 1, 0)] if space_prefix else []
    backend.decoder = decoders.Sequence(
        [decoders.Replace(SPACE, " "), decoders.ByteFallback(), decoders.Fuse(), *strip]
    )
    return backend


def space_prefix_of(state: Mapping[str, Any]) -> bool | None:
    """Whether the tokenizer of a ``tokenizer.json`` puts a space first.

    ``None`` where it is not of this kind, or treats spaces in a way that llama.cpp does not know.
    """
    model = state["model"]
    if model.get("type") != "BPE" or not model.get("byte_fallback") or not model.get("fuse_unk"):
        return None
    if not all(byte in model["vocab"] for byte in BYTES):
        return None
    normalizer, splitter = _steps(state.get("normalizer")), _steps(state.get("pre_tokenizer"))
    if not splitter and normalizer == [_PREPEND, _REPLACE]:
        return True
    if not normalizer and splitter == [_METASPACE]:
        return True
    return False if not splitter and normalizer == [_REPLACE] else None


def _steps(part: Mapping[str, Any] | None) -> list[Any]:
    if part is None:
        return []
    inner = part.get("normalizers") or part.get("pretokenizers")
    return list(inner) if part.get("type") == "Sequence" and inner else [part]

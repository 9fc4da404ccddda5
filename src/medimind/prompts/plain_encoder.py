"""A tokenizer that takes every text literally."""

from __future__ import annotations

import json
import uuid
from typing import Any

import tokenizers


def is_control(token: tokenizers.AddedToken) -> bool:
    """Whether an added token steers the model, rather than being white space or one character."""
    return len(token.content.strip()) > 1


def puts_prefix_space(backend: tokenizers.Tokenizer) -> bool:
    """Whether a space is put before the first word (tokenizers of the SentencePiece kind).

    A text that goes on after another one must be encoded without it.
    """
    alone = backend.encode("a", add_special_tokens=False).tokens
    return bool(alone) and alone[0][:1] in ("▁", "Ġ")


def without_control_tokens(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A copy that cannot see control tokens in a text and puts no space before it.

    The control tokens are renamed to something no text holds (rather than removed, which would
    shift the ids of the others), and merges that lead to them are left out.
    """
    control = {t.content for t in backend.get_added_tokens_decoder().values() if is_control(t)}
    nonce = uuid.uuid4().hex
    hidden = {content: f"\ue0f3{nonce}-{number}" for number, content in enumerate(sorted(control))}
    definition = json.loads(backend.to_str())
    for token in definition["added_tokens"]:
        if token["content"] in hidden:
            token["content"] = hidden[token["content"]]
            token["normalized"] = False
    definition["post_processor"] = None
    for part in ("normalizer", "pre_tokenizer"):
        definition[part] = _without_prefix_space(definition.get(part))
    model = definition["model"]
    if isinstance(model["vocab"], dict):
        model["vocab"] = {hidden.get(text, text): i for text, i in model["vocab"].items()}
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if not _leads_to(control, merge)]
    return tokenizers.Tokenizer.from_str(json.dumps(definition))


def _leads_to(control: set[str], merge: str | list[str]) -> bool:
    left, right = merge.split(" ") if isinstance(merge, str) else merge
    return left in control or right in control or left + right in control


def _without_prefix_space(part: Any) -> Any:
    """A normalizer or pre-tokenizer that leaves a text's first word as it is."""
    if not isinstance(part, dict):
        return part
    if part.get("type") == "Prepend":
        return None
    part = dict(part)
    if "prepend_scheme" in part:
        part["prepend_scheme"] = "never"
    if "add_prefix_space" in part:
        part["add_prefix_space"] = False
    for key in ("normalizers", "pretokenizers"):
        if key in part:
            cleaned = [_without_prefix_space(child) for child in part[key]]
            part[key] = [child for child in cleaned if child is not None]
    return part

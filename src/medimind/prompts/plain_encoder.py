"""A tokenizer that takes every text literally."""

from __future__ import annotations

import json
from typing import Any

import tokenizers


def puts_prefix_space(backend: tokenizers.Tokenizer) -> bool:
    """Whether a space is put before the first word (tokenizers of the SentencePiece kind).

    A text that goes on after another one must be encoded without it.
    """
    alone = backend.encode("a", add_special_tokens=False).tokens
    return bool(alone) and alone[0][:1] in ("▁", "Ġ")


def without_control_tokens(backend: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """A copy that knows no control tokens and puts no space before a text.

    Added tokens of white space alone stay: they only shorten indented text.
    """
    definition = json.loads(backend.to_str())
    control = {t["content"] for t in definition["added_tokens"] if t["content"].strip()}
    definition["added_tokens"] = [
        t for t in definition["added_tokens"] if t["content"] not in control
    ]
    definition["post_processor"] = None
    for part in ("normalizer", "pre_tokenizer"):
        definition[part] = _without_prefix_space(definition.get(part))
    model = definition["model"]
    if isinstance(model["vocab"], dict):
        # A control token that no merge leads to may still be taken whole where merges are ignored.
        merged = {
            m.replace(" ", "", 1) if isinstance(m, str) else "".join(m)
            for m in model.get("merges", ())
        }
        kept = {model.get("unk_token"), *merged}
        model["vocab"] = {
            t: i for t, i in model["vocab"].items() if t not in control or t in kept or len(t) == 1
        }
    return tokenizers.Tokenizer.from_str(json.dumps(definition))


def _without_prefix_space(part: Any) -> Any:
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

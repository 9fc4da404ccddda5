"""Tokenizers in the header of a GGUF file.

A GGUF holds vocabulary, merges and token types, but only the *name* of how text is cut before the
merges apply. A wrong guess there gives other ids without any error, so an unknown name is refused.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import tokenizers
from tokenizers import decoders, models, normalizers, pre_tokenizers

from medimind.errors import PromptError
from medimind.formats.gguf import read_gguf
from medimind.prompts.sentencepiece_bpe import build_backend, merges_of
from medimind.prompts.tokenizer_definition import TokenizerDefinition, set_bos, split_pattern

_LLAMA3_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
_QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)


class TokenType(IntEnum):
    """``tokenizer.ggml.token_type`` of the GGUF specification."""

    NORMAL = 1
    UNKNOWN = 2
    CONTROL = 3
    USER_DEFINED = 4
    UNUSED = 5
    BYTE = 6


@dataclass(frozen=True, slots=True)
class PreTokenizer:
    """What the name in ``tokenizer.ggml.pre`` stands for."""

    build: Callable[[], pre_tokenizers.PreTokenizer]
    ignore_merges: bool = False
    nfc: bool = False
    adds_bos: bool = False


def _gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)


def _digits_then_gpt2() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), _gpt2()])


_LLAMA3 = PreTokenizer(lambda: split_pattern(_LLAMA3_PATTERN), ignore_merges=True, adds_bos=True)
PRE_TOKENIZERS: Mapping[str, PreTokenizer] = {
    "deepseek-r1-qwen": PreTokenizer(lambda: split_pattern(_QWEN_PATTERN)),
    "gpt-2": PreTokenizer(_gpt2),
    "llama-bpe": _LLAMA3,
    "llama-v3": _LLAMA3,
    "llama3": _LLAMA3,
    "qwen2": PreTokenizer(lambda: split_pattern(_QWEN_PATTERN), nfc=True),
    "smollm": PreTokenizer(_digits_then_gpt2),
}


def read_gguf_tokenizer(path: Path) -> TokenizerDefinition:
    """The tokenizer of a GGUF file.

    Raises:
        CheckpointError: If the file is no GGUF or damaged.
        PromptError: If its tokenizer is missing, damaged or of an unsupported kind.
    """
    return definition_from_metadata(read_gguf(path).metadata, where=str(path))


def definition_from_metadata(metadata: Mapping[str, Any], *, where: str) -> TokenizerDefinition:
    """The tokenizer that the keys ``tokenizer.*`` of a GGUF header describe.

    Control tokens become special added tokens, user-defined ones (``<think>``) added tokens,
    unused ones (padding of the vocabulary) are left out.

    Raises:
        PromptError: If keys are missing or contradict each other, or the kind is unsupported.
    """
    header = _Header(metadata, where)
    kind = header.text("tokenizer.ggml.model")
    if kind not in ("gpt2", "llama"):
        raise header.error(
            f"the tokenizer is of kind '{kind}'; known are byte-level BPE ('gpt2') and "
            "SentencePiece's ('llama')",
            fix="Use the checkpoint's folder with tokenizer.json and safetensors instead",
        )
    if kind == "llama":
        tokens, types = header.vocabulary()
        backend = _build_sentencepiece(header, tokens, types)
        adds_bos = metadata.get("tokenizer.ggml.add_bos_token", True)
    else:
        name = header.text("tokenizer.ggml.pre")
        if name not in PRE_TOKENIZERS:
            raise header.error(
                f"the pre-tokenizer '{name}' is not known; known are {', '.join(PRE_TOKENIZERS)}",
                fix="Use the checkpoint's folder with tokenizer.json and safetensors instead",
            )
        rules = PRE_TOKENIZERS[name]
        tokens, types = header.vocabulary()
        backend = _build(header, tokens, types, rules=rules)
        adds_bos = metadata.get("tokenizer.ggml.add_bos_token", rules.adds_bos)
    bos = header.token("tokenizer.ggml.bos_token_id", tokens)
    if not isinstance(adds_bos, bool):
        raise header.error("'tokenizer.ggml.add_bos_token' is not true or false")
    set_bos(backend, bos, adds_bos=adds_bos)
    template = metadata.get("tokenizer.chat_template")
    return TokenizerDefinition(
        backend=backend,
        bos=bos,
        eos=header.token("tokenizer.ggml.eos_token_id", tokens),
        pad=header.token("tokenizer.ggml.padding_token_id", tokens),
        adds_bos=adds_bos,
        chat_template=template if isinstance(template, str) else None,
        where=where,
    )


def _build(
    header: _Header, tokens: list[str], types: list[int], *, rules: PreTokenizer
) -> tokenizers.Tokenizer:
    vocabulary = {t: i for i, t in enumerate(tokens) if types[i] != TokenType.UNUSED}
    try:
        model = models.BPE(
            vocab=vocabulary, merges=header.merges(), ignore_merges=rules.ignore_merges
        )
    except Exception as error:  # the library raises bare Exceptions
        raise header.error(f"vocabulary and merges do not fit together ({error})") from None
    backend = tokenizers.Tokenizer(model)
    if rules.nfc:
        backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = rules.build()
    backend.decoder = decoders.ByteLevel()
    _add_tokens(backend, tokens, types)
    return backend


def _build_sentencepiece(
    header: _Header, tokens: list[str], types: list[int]
) -> tokenizers.Tokenizer:
    scores = header.metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise header.error(f"'tokenizer.ggml.scores' is no list of {len(tokens)} numbers")
    prefix = header.metadata.get("tokenizer.ggml.add_space_prefix", True)
    if not isinstance(prefix, bool):
        raise header.error("'tokenizer.ggml.add_space_prefix' is not true or false")
    vocabulary = {t: i for i, t in enumerate(tokens) if types[i] != TokenType.UNUSED}
    plain = [i for i, kind in enumerate(types) if kind == TokenType.NORMAL]
    backend = build_backend(
        vocabulary,
        merges_of(tokens, scores, plain=plain),
        unknown=header.token("tokenizer.ggml.unknown_token_id", tokens),
        space_prefix=prefix,
    )
    _add_tokens(backend, tokens, types)
    return backend


def _add_tokens(backend: tokenizers.Tokenizer, tokens: list[str], types: list[int]) -> None:
    added = [
        tokenizers.AddedToken(token, special=token_type == TokenType.CONTROL, normalized=False)
        for token, token_type in zip(tokens, types)
        if token_type in (TokenType.CONTROL, TokenType.USER_DEFINED)
    ]
    backend.add_tokens([token for token in added if not token.special])
    backend.add_special_tokens([token for token in added if token.special])


@dataclass(frozen=True, slots=True)
class _Header:
    """Checked access to a GGUF header."""

    metadata: Mapping[str, Any]
    where: str

    def error(
        self, message: str, *, fix: str = "Take the file again; it is damaged"
    ) -> PromptError:
        return PromptError(message, where=self.where, fix=fix)

    def text(self, key: str) -> str:
        value = self.metadata.get(key)
        if not isinstance(value, str):
            raise self.error(f"the header holds no text '{key}'")
        return value

    def strings(self, key: str) -> list[str]:
        value = self.metadata.get(key)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.error(f"the header holds no list of texts '{key}'")
        if not value:
            raise self.error(f"the list '{key}' is empty")
        return value

    def vocabulary(self) -> tuple[list[str], list[int]]:
        tokens = self.strings("tokenizer.ggml.tokens")
        types = self.metadata.get("tokenizer.ggml.token_type", [TokenType.NORMAL] * len(tokens))
        if not isinstance(types, list) or not all(isinstance(t, int) for t in types):
            raise self.error("'tokenizer.ggml.token_type' is no list of whole numbers")
        if len(types) != len(tokens):
            raise self.error(f"{len(tokens)} tokens have {len(types)} token types")
        if len(set(tokens)) != len(tokens):
            raise self.error("the vocabulary holds a token twice")
        return tokens, types

    def merges(self) -> list[tuple[str, str]]:
        merges = []
        for rank, merge in enumerate(self.strings("tokenizer.ggml.merges")):
            left, _, right = merge.partition(" ")
            if not left or not right or " " in right:
                raise self.error(f"merge {rank} is not two tokens with a space between")
            merges.append((left, right))
        return merges

    def token(self, key: str, tokens: list[str]) -> str | None:
        value = self.metadata.get(key)
        if value is None:
            return None
        if not isinstance(value, int) or isinstance(value, bool):
            raise self.error(f"'{key}' is not a whole number")
        if not 0 <= value < len(tokens):
            raise self.error(f"'{key}' is {value}, but there are {len(tokens)} tokens")
        return tokens[value]

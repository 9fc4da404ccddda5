"""What a tokenizer's files say, whatever their kind."""

from __future__ import annotations

import json
from dataclasses import dataclass

import tokenizers
from tokenizers import pre_tokenizers, processors

from medimind.errors import PromptError


@dataclass(frozen=True, slots=True)
class TokenizerDefinition:
    """A tokenizer as read from its files.

    Attributes:
        backend: The `tokenizers` object.
        bos: Text of the BOS token.
        eos: Text of the EOS token.
        pad: Text of the padding token.
        adds_bos: Whether a text begins with BOS.
        chat_template: Jinja source.
        where: The file or folder it was read from.
    """

    backend: tokenizers.Tokenizer
    bos: str | None
    eos: str | None
    pad: str | None
    adds_bos: bool
    chat_template: str | None
    where: str


def backend_from_json(text: str, *, where: str) -> tokenizers.Tokenizer:
    """The `tokenizers` object of a ``tokenizer.json``, with cutting and padding switched off.

    Raises:
        PromptError: If the text is no tokenizer definition.
    """
    fix = "Take the file from the checkpoint again; it may be cut off or of another format"
    try:
        definition = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise PromptError(f"this is not JSON ({error})", where=where, fix=fix) from None
    model = definition.get("model") if isinstance(definition, dict) else None
    if not isinstance(model, dict) or not isinstance(model.get("vocab"), dict | list):
        raise PromptError("this is not a tokenizer definition", where=where, fix=fix)
    if not model["vocab"]:
        raise PromptError("the vocabulary is empty", where=where, fix=fix)
    try:
        backend = tokenizers.Tokenizer.from_str(text)
        backend.encode("a", add_special_tokens=False)
    except BaseException as error:  # a Rust panic arrives as a bare BaseException
        if isinstance(error, KeyboardInterrupt | SystemExit):
            raise
        message = f"the tokenizer definition is not valid ({error})"
        raise PromptError(message, where=where, fix=fix) from None
    backend.no_truncation()
    backend.no_padding()
    return backend


def adds_token_first(backend: tokenizers.Tokenizer, token_id: int) -> bool:
    """Whether the post-processor puts this token before a text."""
    ids = backend.encode("a", add_special_tokens=True).ids
    return bool(ids) and ids[0] == token_id


def set_bos(backend: tokenizers.Tokenizer, bos: str | None, *, adds_bos: bool) -> None:
    """Make the post-processor add BOS, or not, as the checkpoint's settings say.

    We never let it add anything ourselves; other programs that read a saved ``tokenizer.json`` do.
    """
    bos_id = None if bos is None else backend.token_to_id(bos)
    if bos is None or bos_id is None or adds_token_first(backend, bos_id) == adds_bos:
        return
    plain = processors.ByteLevel(trim_offsets=False)
    if adds_bos:
        with_bos = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos} $B:1", special_tokens=[(bos, bos_id)]
        )
        backend.post_processor = processors.Sequence([plain, with_bos])
    else:
        backend.post_processor = plain


def split_pattern(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Byte-level pre-tokenizer that cuts text where ``pattern`` says."""
    return pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(tokenizers.Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )

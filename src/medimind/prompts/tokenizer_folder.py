"""Tokenizers in Hugging Face's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import tokenizers

from medimind.errors import PromptError
from medimind.prompts.tokenizer_definition import (
    TokenizerDefinition,
    adds_token_first,
    backend_from_json,
    set_bos,
)


def read_folder(folder: Path) -> TokenizerDefinition:
    """The tokenizer of a checkpoint's folder.

    ``tokenizer_config.json`` may be missing. A token is given there as a string or as an object
    with ``content``; a chat template as a string, as a list of named ones (``default`` is taken)
    or in ``chat_template.jinja``, which wins.

    Raises:
        PromptError: If a file is missing or damaged.
    """
    path = folder / "tokenizer.json"
    if not path.is_file():
        other = next((n for n in ("tokenizer.model", "vocab.json") if (folder / n).exists()), None)
        found = f" (only {other}, which MediMind does not read)" if other else ""
        raise PromptError(
            f"the folder holds no tokenizer.json{found}",
            where=str(folder),
            fix="Save the tokenizer in the 'tokenizers' format, or give a folder that holds it",
        )
    backend = backend_from_json(_read_text(path), where=str(path))
    config_path = folder / "tokenizer_config.json"
    config = _read_object(config_path) if config_path.is_file() else {}
    _add_listed_tokens(backend, config, where=config_path)
    bos = _token(config, "bos_token", where=config_path)
    bos_id = None if bos is None else backend.token_to_id(bos)
    adds_bos = config.get("add_bos_token")
    if not isinstance(adds_bos, bool):
        adds_bos = bos_id is not None and adds_token_first(backend, bos_id)
    set_bos(backend, bos, adds_bos=adds_bos)
    return TokenizerDefinition(
        backend=backend,
        bos=bos,
        eos=_token(config, "eos_token", where=config_path),
        pad=_token(config, "pad_token", where=config_path),
        adds_bos=adds_bos,
        chat_template=_chat_template(folder, config, where=config_path),
        where=str(folder),
    )


def _add_listed_tokens(
    backend: tokenizers.Tokenizer, config: dict[str, Any], *, where: Path
) -> None:
    """Add the tokens that only ``tokenizer_config.json`` lists, as older checkpoints have them."""
    listed = config.get("added_tokens_decoder")
    if not isinstance(listed, dict):
        return
    numbered = {int(i): t for i, t in listed.items() if str(i).isdecimal() and isinstance(t, dict)}
    for token_id, entry in sorted(numbered.items()):
        content = entry.get("content")
        if not isinstance(content, str) or backend.token_to_id(content) is not None:
            continue
        special = entry.get("special") is True
        token = tokenizers.AddedToken(content, special=special, normalized=False)
        backend.add_tokens([token])
        if backend.token_to_id(content) != token_id:
            raise PromptError(
                f"the token '{content}' cannot get the id {token_id} that it is listed with",
                where=str(where),
                fix="Take tokenizer.json and tokenizer_config.json from the same checkpoint",
            )


def _token(config: dict[str, Any], key: str, *, where: Path) -> str | None:
    value = config.get(key)
    if isinstance(value, dict):
        value = value.get("content")
    if value is None or isinstance(value, str):
        return value or None
    raise PromptError(
        f"'{key}' is neither text nor an object with 'content'",
        where=str(where),
        fix=f'Write the token itself, such as "{key}": "</s>"',
    )


def _chat_template(folder: Path, config: dict[str, Any], *, where: Path) -> str | None:
    path = folder / "chat_template.jinja"
    if path.is_file():
        return _read_text(path)
    value = config.get("chat_template")
    if isinstance(value, list):
        named = {t.get("name"): t.get("template") for t in value if isinstance(t, dict)}
        value = named.get("default")
    if value is None or isinstance(value, str):
        return value
    raise PromptError(
        "'chat_template' is neither text nor a list of named templates", where=str(where)
    )


def _read_object(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(_read_text(path))
    except (json.JSONDecodeError, RecursionError) as error:
        raise PromptError(f"this is not JSON ({error})", where=str(path)) from None
    if not isinstance(value, dict):
        raise PromptError("this is not a JSON object", where=str(path))
    return value


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        message = f"this is not UTF-8 text (byte {error.start})"
    except OSError as error:
        message = f"the file cannot be read ({error.strerror})"
    raise PromptError(
        message, where=str(path), fix="Take the file from the checkpoint again"
    ) from None

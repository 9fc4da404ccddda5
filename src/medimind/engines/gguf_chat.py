"""How a GGUF file and its adapter want to be asked: tokenizer and template.

Needs neither llama.cpp nor torch.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medimind.config.prompt import PromptConfig
from medimind.engines.chat import Chat
from medimind.engines.engine import Variant
from medimind.engines.gguf_check import check_header
from medimind.errors import CheckpointError
from medimind.formats.folder import hash_file
from medimind.formats.gguf import read_gguf
from medimind.prompts.chat import PROMPT_KEY
from medimind.prompts.guess import guess_template
from medimind.prompts.templates import Template, get_template
from medimind.prompts.tokenizer import Tokenizer, load_tokenizer

CONTEXT = 4096
"""Longest prompt and output together, unless something else is asked for."""


def open_chat(
    model: Path, *, adapter: Path | None = None, template: Template | None = None
) -> Chat:
    """How a GGUF file, perhaps with an adapter, is asked.

    Args:
        model: The file.
        adapter: GGUF LoRA.
        template: Takes the place of what the files say.

    Raises:
        CheckpointError: If a file is damaged, or the adapter belongs to another model.
        PromptError: If the tokenizer is of an unsupported kind.
    """
    file = read_gguf(model)
    check_header(file)
    metadata = dict(file.metadata)
    if adapter is not None:
        lora = _check_adapter(adapter, model, metadata)
        if PROMPT_KEY in lora:
            metadata[PROMPT_KEY] = lora[PROMPT_KEY]
    tokenizer = load_tokenizer(model)
    template = template or stored_template(metadata, tokenizer=tokenizer, path=model)
    return Chat(tokenizer, template)


def files_identity(model: Path, *, adapter: Path | None, variant: Variant, program: str) -> str:
    """Hash of what decides an answer: file, program with its release, and the adapter if on."""
    parts = [hash_file(model), program, variant]
    if variant == "tuned" and adapter is not None:
        parts.append(hash_file(adapter))
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()


def stored_template(
    metadata: dict[str, Any], *, tokenizer: Tokenizer, path: Path
) -> Template | None:
    """The template that a GGUF header asks for; ``None`` means the checkpoint's own chat template.

    Raises:
        CheckpointError: If the header's prompt section is damaged.
    """
    stored = metadata.get(PROMPT_KEY)
    if stored is not None:
        try:
            return get_template(PromptConfig.model_validate(json.loads(stored)))
        except (ValidationError, ValueError, TypeError) as error:
            raise CheckpointError(
                f"the key '{PROMPT_KEY}' is damaged ({type(error).__name__})",
                where=str(path),
                fix="Name the template instead",
            ) from None
    if tokenizer.chat_template is None:
        return get_template(PromptConfig(template=guess_template(tokenizer)))
    return None


def _check_adapter(path: Path, model: Path, of_model: dict[str, Any]) -> dict[str, Any]:
    """The adapter's header."""
    metadata = read_gguf(path).metadata
    if metadata.get("general.type") != "adapter":
        raise CheckpointError(
            "this is no GGUF adapter",
            where=str(path),
            fix="Write one with: medimind export RUN --to gguf-adapter",
        )
    architecture = of_model.get("general.architecture")
    if metadata.get("general.architecture") != architecture:
        raise CheckpointError(
            f"the adapter is for '{metadata.get('general.architecture')}', "
            f"the model is '{architecture}'",
            where=str(path),
            fix="Give the base model that the adapter was trained on",
        )
    # Only a tuned file holds a prompt section, and it is named as its run's adapter is.
    if PROMPT_KEY in of_model and of_model.get("general.name") == metadata.get("general.name"):
        raise CheckpointError(
            f"{model.name} has this adapter merged in already: it would count twice",
            where=str(path),
            fix="Leave the adapter out, or give the base model: "
            "medimind export RUN --to gguf-adapter --with-base",
        )
    return metadata

"""How a GGUF file and its adapter want to be asked: tokenizer and template.

Needs neither llama.cpp nor torch.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from medimind.config.prompt import PromptConfig
from medimind.engines.gguf_check import check_header
from medimind.errors import CheckpointError
from medimind.formats.gguf import read_gguf
from medimind.prompts.chat import PROMPT_KEY, render_chat
from medimind.prompts.guess import guess_template
from medimind.prompts.templates import Template, get_template
from medimind.prompts.tokenizer import Tokenizer, load_tokenizer


@dataclass(frozen=True, slots=True)
class GgufChat:
    """How a file is asked.

    Attributes:
        tokenizer: The file's.
        template: How chats are rendered; ``None`` is the checkpoint's own chat template.
        metadata: The header's keys; the adapter's prompt section takes the place of the file's.
    """

    tokenizer: Tokenizer
    template: Template | None
    metadata: dict[str, Any]

    def ids(self, messages: Sequence[tuple[str, str]]) -> list[int]:
        """The token ids that the answer to a chat continues.

        Raises:
            PromptError: As `render_chat`.
        """
        return render_chat(messages, template=self.template, tokenizer=self.tokenizer)


def open_chat(
    model: Path, *, adapter: Path | None = None, template: Template | None = None
) -> GgufChat:
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
        lora = _check_adapter(adapter, architecture=metadata.get("general.architecture"))
        if PROMPT_KEY in lora:
            metadata[PROMPT_KEY] = lora[PROMPT_KEY]
    tokenizer = load_tokenizer(model)
    template = template or stored_template(metadata, tokenizer=tokenizer, path=model)
    return GgufChat(tokenizer, template, metadata)


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


def _check_adapter(path: Path, *, architecture: object) -> dict[str, Any]:
    """The adapter's header."""
    metadata = read_gguf(path).metadata
    if metadata.get("general.type") != "adapter":
        raise CheckpointError(
            "this is no GGUF adapter",
            where=str(path),
            fix="Write one with: medimind export RUN --to gguf-adapter",
        )
    if metadata.get("general.architecture") != architecture:
        raise CheckpointError(
            f"the adapter is for '{metadata.get('general.architecture')}', "
            f"the model is '{architecture}'",
            where=str(path),
        )
    return metadata

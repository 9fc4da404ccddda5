"""The template that fits a tokenizer, where no recipe names one."""

from __future__ import annotations

from typing import Literal

from medimind.prompts.tokenizer import Tokenizer

_BY_CONTROL_TOKEN: tuple[tuple[str, Literal["r1", "chatml", "llama3"]], ...] = (
    ("<｜User｜>", "r1"),
    ("<|im_start|>", "chatml"),
    ("<|start_header_id|>", "llama3"),
)


def guess_template(tokenizer: Tokenizer) -> Literal["r1", "chatml", "llama3", "plain"]:
    """The name of the template whose markers the tokenizer has; ``plain`` where it has none."""
    for token, name in _BY_CONTROL_TOKEN:
        if tokenizer.token_id(token) is not None:
            return name
    return "plain"

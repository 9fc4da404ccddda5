"""A chat as token ids: by the template that a model was tuned with, or by its own."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from medimind.cases.case import Case, Turn
from medimind.errors import PromptError
from medimind.prompts.render import render_inference, render_native
from medimind.prompts.templates import Template
from medimind.prompts.tokenizer import Tokenizer

PROMPT_KEY = "medimind.prompt"
"""Key of a GGUF header: the prompt section of the recipe that a model was tuned with, as JSON."""
ROLES = ("system", "user", "assistant")


def render_chat(
    messages: Sequence[tuple[str, str]], *, template: Template | None, tokenizer: Tokenizer
) -> list[int]:
    """The ids that the answer to the last message starts from.

    Text of a message is never read as control tokens. Thoughts in earlier answers are left out.

    Args:
        messages: ``(role, text)``: perhaps a system text, then user and assistant in turn, the
            user last. A system text takes the place of the template's own.
        template: The template; ``None`` takes the checkpoint's own chat template.
        tokenizer: The model's.

    Raises:
        PromptError: If roles are unknown or out of place, the last message is empty or not the
            user's, or the checkpoint's chat template fails.
    """
    case = _case(messages)
    if template is None:
        try:
            return render_native(case, tokenizer=tokenizer)
        except PromptError as error:
            # Its advice is for an evaluation; here another template can be named.
            raise PromptError(
                error.message, where=error.where, fix="Name a template to be used instead"
            ) from None
    if case.system is not None and dataclasses.is_dataclass(template):
        template = dataclasses.replace(template, system=None)
    return render_inference(case, template=template, tokenizer=tokenizer)


def _case(messages: Sequence[tuple[str, str]]) -> Case:
    system = None
    turns = list(messages)
    if turns and turns[0][0] == "system":
        system = turns.pop(0)[1]
    unknown = next((role for role, _ in turns if role not in ROLES[1:]), None)
    if unknown is not None:
        raise PromptError(
            f"a message has the role '{unknown[:40]}' where user or assistant is expected",
            where="messages",
            fix="Give at most one system message, first",
        )
    if not turns or turns[-1][0] != "user":
        raise PromptError(
            "the last message is not the user's", where="messages", fix="End with the question"
        )
    history = tuple(Turn(role, text) for role, text in turns[:-1])
    return Case(id="chat", question=turns[-1][1], response="", system=system, history=history)

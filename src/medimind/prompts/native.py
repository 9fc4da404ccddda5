"""Prompts through a checkpoint's own chat template, for judging the base model on its own terms.

Inference only: R1's template deletes the reasoning of an assistant's turn, so nothing that is to
be learned passes through here.
"""

from __future__ import annotations

import re

from medimind.cases.case import Case
from medimind.errors import PromptError
from medimind.prompts.question import earlier_turns, question_text
from medimind.prompts.template_process import TemplateFailedError, template_process
from medimind.prompts.templates import Piece
from medimind.prompts.tokenizer import Tokenizer

# Stands for a message's text while the template runs: private-use characters, so that no template
# changes it and no control token can be read out of the message.
_PLACE = "\ue0f1{}\ue0f2"
_PLACES = re.compile("\ue0f1([0-9]+)\ue0f2")


def native_pieces(case: Case, *, tokenizer: Tokenizer, with_options: bool) -> list[Piece]:
    """The prompt of the checkpoint's chat template, cut into its own text and the case's.

    Raises:
        PromptError: If there is no chat template, it fails, or it drops the question.
    """
    if tokenizer.chat_template is None:
        raise PromptError(
            "the checkpoint has no chat template of its own",
            where=tokenizer.where,
            fix="Set evaluation.native_template: false",
        )
    turns = [(turn.role, turn.text) for turn in earlier_turns(case)]
    if case.system and case.system.strip():
        turns.insert(0, ("system", case.system.strip()))
    turns.append(("user", question_text(case, with_options=with_options)))
    messages = [
        {"role": role, "content": _PLACE.format(index)} for index, (role, _) in enumerate(turns)
    ]
    text = _run(tokenizer, messages)
    parts = _PLACES.split(text)
    pieces = [
        Piece(turns[int(part)][1], False) if index % 2 else Piece(part, True)
        for index, part in enumerate(parts)
    ]
    if str(len(turns) - 1) not in parts[1::2]:
        raise PromptError(
            "the checkpoint's chat template drops or changes the question",
            where=case.id,
            fix="Set evaluation.native_template: false",
        )
    return [piece for piece in pieces if piece.text]


def _run(tokenizer: Tokenizer, messages: list[dict[str, str]]) -> str:
    try:
        return template_process.render(
            tokenizer.chat_template or "",
            messages=messages,
            add_generation_prompt=True,
            bos_token=tokenizer.bos or "",
            eos_token=tokenizer.eos or "",
        )
    except TemplateFailedError as error:
        raise PromptError(
            f"the checkpoint's chat template fails ({error})",
            where=tokenizer.where,
            fix="Set evaluation.native_template: false",
        ) from None

"""The words of a case that a prompt carries, whatever the template."""

from __future__ import annotations

import re

from medimind.cases.case import OPTION_LETTERS, Case, Turn
from medimind.errors import PromptError
from medimind.prompts.parse import parse_output

OPTIONS_REQUEST = "End with a line that holds only your choice, written as Answer: <letter>"
_ANSWER_LINE = re.compile(r"\W*answer\W+([A-Z])\W*", re.IGNORECASE)


def question_text(case: Case, *, with_options: bool = True) -> str:
    """The question; with its options as lines ``A. text`` and the request for ``Answer: <letter>``.

    Raises:
        PromptError: If the question is empty, or there are more options than letters.
    """
    question = case.question.strip()
    if not question:
        raise PromptError("the question is empty", where=case.id, fix="Ask something")
    if not (with_options and case.options):
        return question
    if len(case.options) > len(OPTION_LETTERS):
        raise PromptError(
            f"{len(case.options)} options are more than there are letters", where=case.id
        )
    lines = [f"{letter}. {text.strip()}" for letter, text in zip(OPTION_LETTERS, case.options)]
    return "\n".join([question, "", *lines, "", OPTIONS_REQUEST])


def response_text(case: Case, *, with_options: bool = True) -> str:
    """The response to learn; its last line is ``Answer: <letter>`` where options are shown.

    Raises:
        PromptError: If the response is empty, or ends in another letter than the case's own.
    """
    response = case.response.strip()
    if not response:
        raise PromptError(
            "the response is empty, so there is nothing to learn",
            where=case.id,
            fix="Fill it in or leave the row out",
        )
    if not (with_options and case.options) or case.answer_index is None:
        return response
    if not 0 <= case.answer_index < len(case.options):
        raise PromptError(
            f"the right option is number {case.answer_index + 1} of {len(case.options)}",
            where=case.id,
            fix="Mend the row's answer",
        )
    letter = OPTION_LETTERS[case.answer_index]
    given = _ANSWER_LINE.fullmatch(response.rsplit("\n", 1)[-1])
    if given is None:
        return f"{response}\n\nAnswer: {letter}"
    if given.group(1).upper() != letter:
        raise PromptError(
            f"the response ends in 'Answer: {given.group(1)}', but the right option is {letter}",
            where=case.id,
            fix="Mend the row's response or its answer",
        )
    return response


def earlier_turns(case: Case) -> list[Turn]:
    """The turns before the question; an assistant's thoughts are left out, as R1 wants it."""
    return [
        turn if turn.role == "user" else Turn(turn.role, parse_output(turn.text).answer)
        for turn in (Turn(turn.role, turn.text.strip()) for turn in case.history)
    ]

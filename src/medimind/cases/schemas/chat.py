"""Conversations: OpenAI's messages and ShareGPT's conversations."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from medimind.cases.case import Case, Turn
from medimind.cases.outcome import RowProblem
from medimind.cases.schemas.fields import Fields, clean_text
from medimind.cases.schemas.roles import Role
from medimind.cases.schemas.tabular import COMMON, REASONING
from medimind.cases.sources.json_values import kind_of
from medimind.cases.thinking import (
    has_think_tag,
    split_thinking,
    strip_think_tags,
    without_thinking,
)

MESSAGES_ROLES = (
    Role("messages", ("messages",), required=True),
    Role("reasoning", ("reasoning", "reasoning_content", "thinking")),
    *COMMON,
)
SHAREGPT_ROLES = (
    Role("conversations", ("conversations", "conversation"), required=True),
    Role("reasoning", ("reasoning", "reasoning_content", "thinking")),
    *COMMON,
)
_SPEAKERS = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "chatgpt": "assistant",
}


def messages(fields: Fields) -> Case:
    """The last exchange of ``messages``; what came before is its history."""
    return _conversation(fields, role="messages")


def sharegpt(fields: Fields) -> Case:
    """The last exchange of ``conversations``; what came before is its history."""
    return _conversation(fields, role="conversations")


def _conversation(fields: Fields, *, role: str) -> Case:
    column = fields.column(role)
    turns, own_reasoning = _turns(fields.decoded(role), column=column)
    system = fields.optional_text("system")
    if turns[0].role == "system":
        system, turns = turns[0].text, turns[1:]
    _check_order(turns, column=column)
    question, last = turns[-2], turns[-1]
    if has_think_tag(question.text):
        raise RowProblem("holds a think tag in a question", field=column, fix="Remove the tag")
    reasoning = strip_think_tags(
        own_reasoning or fields.optional_text("reasoning"), field=fields.column("reasoning")
    )
    reasoning, response = split_thinking(last.text, reasoning=reasoning, field=column)
    history = tuple(Turn(turn.role, without_thinking(turn.text)) for turn in turns[:-2])
    return Case(
        id="",
        question=question.text,
        reasoning=reasoning,
        response=response,
        system=system or None,
        history=history,
    )


def _check_order(turns: list[Turn], *, column: str) -> None:
    if len(turns) < 2:
        raise RowProblem(
            "holds no question with its answer",
            field=column,
            fix="Give at least one user and one assistant turn",
        )
    if turns[-1].role != "assistant":
        raise RowProblem(
            "does not end with the assistant", field=column, fix="Add the answer to the last turn"
        )
    for index, turn in enumerate(turns):
        if turn.role != ("user", "assistant")[index % 2]:
            raise RowProblem(
                f"has {turn.role} as turn {index + 1} where user and assistant should take turns",
                field=column,
                fix="Join turns of one speaker, and begin with the user",
            )


def _turns(value: Any, *, column: str) -> tuple[list[Turn], str]:
    """The turns, and the reasoning that the last one carries in a key of its own."""
    if not isinstance(value, list):
        raise RowProblem(
            f"is {kind_of(value)} where a list of turns is expected",
            field=column,
            fix='Write [{"role": "user", "content": "..."}, ...]',
        )
    if not value:
        raise RowProblem("holds no turns", field=column, fix="Add them, or remove the row")
    turns = [_turn(item, number, column=column) for number, item in enumerate(value, start=1)]
    last = value[-1]
    own = next((last[key] for key in REASONING if last.get(key)), None)
    return turns, clean_text(own, field=column) if own is not None else ""


def _turn(item: Any, number: int, *, column: str) -> Turn:
    if not isinstance(item, Mapping):
        raise RowProblem(
            f"has {kind_of(item)} as turn {number} where an object is expected",
            field=column,
            fix='Write each turn as {"role": "user", "content": "..."}',
        )
    speaker = item.get("role", item.get("from"))
    known = _SPEAKERS.get(speaker.strip().lower()) if isinstance(speaker, str) else None
    if known is None:
        raise RowProblem(
            f"has a turn {number} of no known speaker",
            field=column,
            fix=f"Use one of: {', '.join(_SPEAKERS)}",
        )
    content = item.get("content", item.get("value", item.get("text")))
    if isinstance(content, list):
        content = _joined(content, number, column=column)
    text = "" if content is None else clean_text(content, field=column)
    if not text:
        raise RowProblem(f"has an empty turn {number}", field=column, fix="Fill it in")
    return Turn(known, text)


def _joined(parts: list[Any], number: int, *, column: str) -> str:
    texts: list[str] = []
    for part in parts:
        if not isinstance(part, Mapping) or part.get("type", "text") != "text":
            raise RowProblem(
                f"has a part that is no text in turn {number}",
                field=column,
                fix="Images and tools cannot be learned; leave such rows out",
            )
        texts.append(clean_text(part.get("text"), field=column))
    return "\n".join(texts)

"""What the server sends back, in OpenAI's form."""

from __future__ import annotations

import json
import secrets
import time
from typing import Any, Literal

from pydantic import BaseModel

from medimind.prompts.live import Said
from medimind.serving.backend import Ended

DONE = b"data: [DONE]\n\n"


class Usage(BaseModel):
    """Tokens read and generated; 0 where the engine does not say."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Answer(BaseModel):
    """The answer, and the thinking before it."""

    role: Literal["assistant"] = "assistant"
    content: str
    reasoning_content: str | None = None


class Choice(BaseModel):
    """The only choice."""

    index: int = 0
    message: Answer
    finish_reason: Literal["stop", "length"]


class ChatCompletion(BaseModel):
    """A whole answer."""

    id: str
    object: Literal["chat.completion"] = "chat.completion"
    created: int
    model: str
    choices: list[Choice]
    usage: Usage


class ErrorDetail(BaseModel):
    """What went wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorReply(BaseModel):
    """The body of every status of 400 and above."""

    error: ErrorDetail


class ModelEntry(BaseModel):
    """A model that can be asked."""

    id: str
    object: Literal["model"] = "model"
    created: int = 0
    owned_by: str = "medimind"


class ModelList(BaseModel):
    """All models that can be asked."""

    object: Literal["list"] = "list"
    data: list[ModelEntry]


def usage_of(ended: Ended) -> Usage:
    """The tokens of an output."""
    read, made = ended.num_prompt_tokens or 0, ended.num_tokens or 0
    return Usage(prompt_tokens=read, completion_tokens=made, total_tokens=read + made)


class Chunks:
    """The events of one stream."""

    def __init__(self, model: str) -> None:
        self._head = {
            "id": new_id(),
            "object": "chat.completion.chunk",
            "created": int(time.time()),
            "model": model,
        }

    def first(self) -> bytes:
        """Before anything is said."""
        return self._chunk({"role": "assistant", "content": ""}, None)

    def said(self, said: Said) -> bytes:
        """A piece of the output."""
        key = "reasoning_content" if said.part == "thinking" else "content"
        return self._chunk({key: said.text}, None)

    def end(self, ended: Ended, *, with_usage: bool) -> bytes:
        """After the last piece."""
        chunks = self._chunk({}, ended.finish_reason)
        if with_usage:
            usage = usage_of(ended).model_dump()
            chunks += event({**self._head, "choices": [], "usage": usage})
        return chunks + DONE

    def _chunk(self, delta: dict[str, str], finish_reason: str | None) -> bytes:
        choice = {"index": 0, "delta": delta, "finish_reason": finish_reason}
        return event({**self._head, "choices": [choice]})


def new_id() -> str:
    """The name of an answer."""
    return f"chatcmpl-{secrets.token_hex(12)}"


def event(value: dict[str, Any]) -> bytes:
    """A server-sent event."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return b"data: " + text.encode("utf-8", "replace") + b"\n\n"

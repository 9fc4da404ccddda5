"""What a client may send, every field bounded; OpenAI's form."""

from __future__ import annotations

import secrets
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints

from medimind.engines.engine import Variant
from medimind.serving.backend import Ask
from medimind.serving.failures import ServingError
from medimind.serving.limits import Limits

TEMPERATURE = 0.6
TOP_P = 0.95
_MOST_PARTS = 32
_LARGEST_TOKENS = 1 << 20
_SEEDS = 1 << 63


def _check_unicode(text: str) -> str:
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("half of a surrogate pair is no text") from None
    return text


Text = Annotated[str, AfterValidator(_check_unicode)]
"""Any text; JSON can hold halves of surrogate pairs, which no tokenizer reads."""
StopText = Annotated[Text, StringConstraints(min_length=1, max_length=64)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True, allow_inf_nan=False)


class TextPart(_Strict):
    """A part of a message; only text is understood."""

    type: Literal["text"]
    text: Text


class ChatMessage(_Strict):
    """A turn of the chat."""

    role: Literal["system", "developer", "user", "assistant"]
    content: Text | Annotated[list[TextPart], Field(min_length=1, max_length=_MOST_PARTS)]
    name: Annotated[str, StringConstraints(max_length=64)] | None = None
    reasoning_content: str | None = Field(default=None, description="Of earlier answers; unused.")

    def text(self) -> str:
        """The content as one text."""
        if isinstance(self.content, str):
            return self.content
        return "\n".join(part.text for part in self.content)


class StreamOptions(_Strict):
    """What a stream ends with."""

    include_usage: bool = False


class ResponseFormat(_Strict):
    """Only plain text can be asked for."""

    type: Literal["text"] = "text"


class ChatRequest(_Strict):
    """A chat that wants an answer."""

    model: str = Field(max_length=128, description="``base`` or ``tuned``.")
    messages: list[ChatMessage] = Field(min_length=1, max_length=1024)
    stream: bool = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(default=None, ge=1, le=_LARGEST_TOKENS)
    max_completion_tokens: int | None = Field(default=None, ge=1, le=_LARGEST_TOKENS)
    temperature: float = Field(default=TEMPERATURE, ge=0, le=2)
    top_p: float = Field(default=TOP_P, gt=0, le=1)
    seed: int | None = Field(default=None, ge=-_SEEDS, lt=_SEEDS)
    stop: StopText | Annotated[list[StopText], Field(max_length=4)] | None = None
    user: str | None = Field(default=None, max_length=256, description="Not used.")
    # Values that change nothing, which many clients send.
    n: Literal[1] | None = None
    frequency_penalty: Literal[0] | None = None
    presence_penalty: Literal[0] | None = None
    logprobs: Literal[False] | None = None
    response_format: ResponseFormat | None = None


def read_request(request: ChatRequest, *, variants: tuple[Variant, ...], limits: Limits) -> Ask:
    """What the engine is asked.

    Raises:
        ServingError: If there is no such model, or a limit is passed.
    """
    variant: Variant | None = next((one for one in variants if one == request.model), None)
    if variant is None:
        raise ServingError(
            404,
            f"there is no such model here; the models are: {', '.join(variants)}",
            code="model_not_found",
            param="model",
        )
    if len(request.messages) > limits.messages:
        raise ServingError(
            400,
            f"{len(request.messages)} messages, and at most {limits.messages} are read",
            code="invalid_value",
            param="messages",
        )
    most = request.max_completion_tokens or request.max_tokens or limits.max_tokens
    stop = (request.stop,) if isinstance(request.stop, str) else tuple(request.stop or ())
    return Ask(
        messages=tuple((_role(one.role), one.text()) for one in request.messages),
        variant=variant,
        max_tokens=min(most, limits.max_tokens),
        temperature=request.temperature,
        top_p=request.top_p,
        seed=secrets.randbits(31) if request.seed is None else request.seed,
        stop=stop,
    )


def _role(role: str) -> str:
    return "system" if role == "developer" else role

"""The protocol of everything that answers prompts, and the values that it takes and gives.

This module needs neither torch nor a network client: a server for a GGUF imports it without them.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

NOTICE = "Decision support for professionals and research; not a diagnosis."
"""Stands with every answer and in every exported file."""

FinishReason = Literal["stop", "length", "cancelled"]
Stream = Generator[str, None, FinishReason]
"""An output piece by piece; its return value is why it ended. Closing it stops the generation."""
Variant = Literal["base", "tuned"]
"""The model without and with its adapter."""


@dataclass(frozen=True, slots=True)
class Message:
    """One turn of a chat; ``role`` is ``system``, ``user`` or ``assistant``."""

    role: str
    content: str


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked.

    Attributes:
        messages: The chat. An engine without ``prompt`` renders it by the model's own template.
        prompt: The same as rendered text, special tokens included, that the output continues;
            ``None`` leaves the rendering to the engine.
        seed: Seed of this output's sampling.
        prefill: Text after the prompt that the output is made to begin with; it is no part of the
            output. An engine that cannot do it raises instead of leaving it out.
    """

    messages: tuple[Message, ...]
    prompt: str | None = None
    seed: int = 0
    prefill: str = ""


@dataclass(frozen=True, slots=True)
class OptionRequest:
    """A request and the texts that may follow it, whose likelihoods are asked for."""

    request: Request
    continuations: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Decoding:
    """How outputs are generated.

    Attributes:
        max_new_tokens: Longest output, thinking included.
        thinking_budget: After so many tokens the thinking is closed by force; ``None`` never.
            An engine that cannot do it raises instead of leaving it out.
        temperature: 0 takes the likeliest token each time.
        top_p: Nucleus sampling; 1 keeps all tokens.
        stop: Texts that end an output and are no part of it.
    """

    max_new_tokens: int
    thinking_budget: int | None = None
    temperature: float = 0.0
    top_p: float = 1.0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Reply:
    """An output.

    Attributes:
        text: All that was generated, thinking and its tags included where the engine shows them.
        finish_reason: ``length`` is a cut-off output.
        num_prompt_tokens: Tokens read; ``None`` where the engine does not say.
        num_tokens: Tokens generated; ``None`` where the engine does not say.
        seconds: From the request to its last token.
        num_thinking_tokens: Tokens until the thinking was closed; ``None`` where the engine does
            not say.
        token_ids: The generated tokens; ``None`` where the engine does not say.
        prompt: The prompt as the model read it; ``None`` where the engine does not show it.
        open_in_prompt: Whether the prompt ended inside the thinking; ``None`` if unknown.
        markers: What opens and closes the thinking, where the engine's template knows; else empty.
    """

    text: str
    finish_reason: FinishReason
    num_prompt_tokens: int | None
    num_tokens: int | None
    seconds: float
    num_thinking_tokens: int | None = None
    token_ids: tuple[int, ...] | None = None
    prompt: str | None = None
    open_in_prompt: bool | None = None
    markers: tuple[str, str] | None = None


class Engine(Protocol):
    """A loaded model, or the way to one."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    @property
    def variants(self) -> tuple[Variant, ...]:
        """``("base",)``, or ``("base", "tuned")`` where an adapter can be switched per request."""
        ...

    def identity(self, variant: Variant) -> str:
        """Hash of everything that outputs depend on: weights, adapter, tokenizer, arithmetic."""
        ...

    def answer(
        self,
        requests: Sequence[Request],
        *,
        decoding: Decoding,
        variant: Variant = "base",
        on_reply: Callable[[int, Reply], None] | None = None,
    ) -> list[Reply]:
        """The outputs in the order of the requests.

        ``on_reply`` gets each index with its output as soon as it is there, in any order.
        """
        ...

    def stream(self, request: Request, *, decoding: Decoding, variant: Variant = "base") -> Stream:
        """The output piece by piece, and why it ended; closing it stops the generation."""
        ...

    def option_logprobs(
        self,
        requests: Sequence[OptionRequest],
        *,
        variant: Variant = "base",
        on_logprobs: Callable[[int, list[float]], None] | None = None,
    ) -> list[list[float]] | None:
        """Log-probability (nats) of each continuation of each request, summed over its tokens.

        The continuations follow ``request.prompt``, or else the rendered messages with an empty
        thinking where the template has one, and then ``request.prefill``. ``on_logprobs`` gets each
        index with its figures as soon as they are there, in any order. ``None`` where the engine
        cannot tell.
        """
        ...

    def close(self) -> None:
        """Free the model; further calls fail."""
        ...

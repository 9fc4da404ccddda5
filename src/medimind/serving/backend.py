"""What answers chats, and the values that it takes and gives."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from medimind.engines.engine import Variant
from medimind.prompts.live import Said


@dataclass(frozen=True, slots=True)
class Ask:
    """A chat that wants an answer; the sampling is as in ``Decoding``."""

    messages: tuple[tuple[str, str], ...]
    variant: Variant
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Ended:
    """The end of an output, with its length in tokens; ``None`` where the engine does not say."""

    finish_reason: Literal["stop", "length"]
    num_prompt_tokens: int | None
    num_tokens: int | None


class Backend(Protocol):
    """An engine that runs beside the server."""

    @property
    def kind(self) -> str:
        """``llama.cpp`` or ``endpoint``."""
        ...

    @property
    def variants(self) -> tuple[Variant, ...]:
        """Models that can be asked."""
        ...

    @property
    def is_ready(self) -> bool:
        """Whether it answers now."""
        ...

    @property
    def num_restarts(self) -> int:
        """How often it had to be started again."""
        ...

    async def start(self) -> None:
        """Make it ready.

        Raises:
            MediMindError: If it cannot be.
        """
        ...

    async def close(self) -> None:
        """End it."""
        ...

    async def prepare(self, ask: Ask) -> Any:
        """The chat rendered, before it waits for its turn.

        Raises:
            ServingError: If it cannot be asked so.
        """
        ...

    def generate(self, ask: Ask, prepared: Any) -> AsyncGenerator[Said | Ended, None]:
        """Pieces of the output, then its end; closing the iterator stops the generation.

        Raises:
            ServingError: If the engine fails meanwhile.
        """
        ...

"""One chat from its place in the queue to its line in the audit log."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

from medimind.prompts.live import Said
from medimind.serving.admission import Place
from medimind.serving.audit import hash_chat, hash_text
from medimind.serving.backend import Ask, Ended
from medimind.serving.failures import ServingError, error_body
from medimind.serving.replies import Answer, ChatCompletion, Choice, Chunks, event, new_id, usage_of
from medimind.serving.serving import Serving

_COMMENT_SECONDS = 2.0


class Exchange:
    """A chat that has its place and its prompt.

    Args:
        serving: The server.
        place: In the queue; given back by ``close``.
        ask: What is asked.
        prepared: The same as the backend prepared it.
        who: Whose token it came with.
    """

    def __init__(
        self, serving: Serving, *, place: Place, ask: Ask, prepared: Any, who: str
    ) -> None:
        self._serving, self._place, self._ask, self._prepared = serving, place, ask, prepared
        self._who = who
        self._arrived = time.monotonic()
        self._thinking: list[str] = []
        self._answer: list[str] = []
        self._ended: Ended | None = None
        self._outcome = "hung_up"
        self._is_closed = False

    async def events(self, *, with_usage: bool) -> AsyncGenerator[bytes, None]:
        """The answer as server-sent events; an error becomes the last one."""
        chunks = Chunks(self._ask.variant)
        try:
            while not await self._place.turn(seconds=0 if self._place.is_served else 0.01):
                yield f": waiting {self._place.num_before}\n\n".encode()
                if await self._place.turn(seconds=_COMMENT_SECONDS):
                    break
            yield chunks.first()
            async with aclosing(self._pieces()) as pieces:
                async for piece in pieces:
                    yield chunks.said(piece)
            if self._ended is not None:
                yield chunks.end(self._ended, with_usage=with_usage)
        except ServingError as error:
            self._outcome = error.code
            yield event(error_body(error))

    async def whole(self) -> ChatCompletion:
        """The answer at once.

        Raises:
            ServingError: As the queue and the engine.
        """
        try:
            while not await self._place.turn(seconds=self._serving.limits.queue_seconds):
                continue
            async with aclosing(self._pieces()) as pieces:
                async for _ in pieces:
                    continue
        except ServingError as error:
            self._outcome = error.code
            raise
        if self._ended is None:
            raise AssertionError("a backend's output ends with its end")
        thought = "".join(self._thinking).strip()
        answer = Answer(content="".join(self._answer), reasoning_content=thought or None)
        return ChatCompletion(
            id=new_id(),
            created=int(time.time()),
            model=self._ask.variant,
            choices=[Choice(message=answer, finish_reason=self._ended.finish_reason)],
            usage=usage_of(self._ended),
        )

    def close(self) -> None:
        """Give the place back, and write down how it went; does nothing the second time."""
        if self._is_closed:
            return
        self._is_closed = True
        seconds = self._place.seconds_served()
        self._place.leave()
        metrics = self._serving.metrics
        metrics.outcomes.labels(self._ask.variant, self._outcome).inc()
        metrics.chat_seconds.observe(seconds)
        if self._ended is not None:
            metrics.tokens.labels("read").inc(self._ended.num_prompt_tokens or 0)
            metrics.tokens.labels("generated").inc(self._ended.num_tokens or 0)
        if self._serving.audit is not None:
            self._serving.audit.record(
                who=self._who,
                model=self._ask.variant,
                chat_sha256=hash_chat(self._ask.messages),
                thinking_sha256=hash_text("".join(self._thinking)),
                answer_sha256=hash_text("".join(self._answer)),
                outcome=self._outcome,
            )

    async def _pieces(self) -> AsyncGenerator[Said, None]:
        """What is said, each piece within the request's time; its end is kept apart."""
        started = time.monotonic()
        metrics = self._serving.metrics
        metrics.wait_seconds.observe(started - self._arrived)
        deadline = asyncio.get_running_loop().time() + self._serving.limits.request_seconds
        async with aclosing(self._serving.backend.generate(self._ask, self._prepared)) as pieces:  # type: ignore[type-var]
            while True:
                try:
                    async with asyncio.timeout_at(deadline):
                        piece = await anext(pieces)
                except StopAsyncIteration:
                    return
                except TimeoutError:
                    raise ServingError(503, "the answer took too long", code="timeout") from None
                if isinstance(piece, Ended):
                    self._ended, self._outcome = piece, piece.finish_reason
                    return
                if not self._thinking and not self._answer:
                    metrics.first_token_seconds.observe(time.monotonic() - started)
                (self._thinking if piece.part == "thinking" else self._answer).append(piece.text)
                yield piece

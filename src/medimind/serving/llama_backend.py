"""A GGUF file, answered by llama.cpp in a process of its own.

Chats are rendered here, by our templates (a checkpoint's own runs in a sandbox with limits), and go
over as token ids: what a person writes is never read as control tokens.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

import httpx

from medimind.engines.chat import Chat
from medimind.engines.engine import Variant
from medimind.errors import PromptError
from medimind.prompts.live import LiveOutput, Said
from medimind.prompts.render import opens_reasoning
from medimind.serving.backend import Ask, Ended
from medimind.serving.engine_process import EngineProcess
from medimind.serving.failures import ServingError, engine_unavailable

BATCH = 64
"""Prompt tokens computed at a time: what a hang-up may have to wait for."""
_CONNECT_SECONDS = 5.0


class LlamaBackend:
    """A GGUF file with an adapter that is switched per request.

    Args:
        model: The file.
        chat: How it is asked.
        adapter: GGUF LoRA.
        context: Longest prompt and output together, in tokens.
        parallel: Outputs at a time.
        threads: Of the computation.
    """

    kind = "llama.cpp"

    def __init__(
        self,
        model: Path,
        *,
        chat: Chat,
        adapter: Path | None,
        context: int,
        parallel: int,
        threads: int,
    ) -> None:
        self.context = context
        self._chat = chat
        self._has_adapter = adapter is not None
        settings = {
            "model": str(model),
            "adapter": None if adapter is None else str(adapter),
            "context": context,
            "parallel": parallel,
            "threads": threads,
            "batch": BATCH,
        }
        self.process = EngineProcess(settings)
        self._client: httpx.AsyncClient | None = None

    @property
    def variants(self) -> tuple[Variant, ...]:
        """``tuned`` too where there is an adapter."""
        return ("base", "tuned") if self._has_adapter else ("base",)

    @property
    def is_ready(self) -> bool:
        """Whether the process answers."""
        return self.process.ready.is_set()

    @property
    def num_restarts(self) -> int:
        """How often the process had to be started again."""
        return self.process.num_restarts

    async def start(self) -> None:
        """Load the model.

        Raises:
            EngineError: If llama.cpp cannot.
        """
        # No proxy and no limit of connections: the port is ours, and the queue bounds requests.
        self._client = httpx.AsyncClient(
            trust_env=False,
            timeout=httpx.Timeout(None, connect=_CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=8),
        )
        await self.process.start()

    async def close(self) -> None:
        """End the process."""
        await self.process.close()
        if self._client is not None:
            await self._client.aclose()

    async def prepare(self, ask: Ask) -> list[int]:
        """The prompt as token ids.

        Raises:
            ServingError: If the chat cannot be rendered, or leaves no room for an answer.
        """
        try:
            ids = await asyncio.to_thread(self._chat.ids, ask.messages)
        except PromptError as error:
            raise ServingError(400, str(error), code="invalid_value", param="messages") from None
        if len(ids) >= self.context:
            raise ServingError(
                400,
                f"the chat has {len(ids)} tokens and the context {self.context}: shorten it, or "
                "start the server with a longer --context",
                code="context_length_exceeded",
                param="messages",
            )
        return ids

    async def generate(self, ask: Ask, prepared: list[int]) -> AsyncGenerator[Said | Ended, None]:
        """Pieces of the output, then its end.

        Raises:
            ServingError: If the process is not there, or dies meanwhile.
        """
        if self._client is None or not self.is_ready:
            raise engine_unavailable("the engine is being started again")
        live = self._live(prepared)
        try:
            async with self._client.stream(
                "POST",
                f"{self.process.address}/completion",
                json=self._body(ask, prepared),
                headers={"Authorization": f"Bearer {self.process.key}"},
            ) as response:
                async for line in response.aiter_lines():
                    event = _event(line)
                    if event is None:
                        continue
                    for said in live.push(event["content"]):
                        yield said
                    if event["stop"]:
                        for said in live.finish():
                            yield said
                        yield _ended(event)
                        return
        except httpx.TransportError:
            pass
        raise engine_unavailable("the engine died and is started again", code="engine_stopped")

    def _live(self, prompt: list[int]) -> LiveOutput:
        template = self._chat.template
        if template is None:
            return LiveOutput(is_open=opens_reasoning(prompt, tokenizer=self._chat.tokenizer))
        return LiveOutput(
            reasoning_open=template.reasoning_open,
            reasoning_close=template.reasoning_close,
            is_open=template.open_in_prompt,
        )

    def _body(self, ask: Ask, prompt: list[int]) -> dict[str, Any]:
        own_stop = self._chat.template.stop if self._chat.template else ()
        body: dict[str, Any] = {
            "prompt": prompt,
            "n_predict": min(ask.max_tokens, self.context - len(prompt)),
            "temperature": ask.temperature,
            "top_p": ask.top_p,
            "top_k": 0,
            "min_p": 0.0,
            "repeat_penalty": 1.0,
            "seed": ask.seed & 0x7FFFFFFF,
            "stop": [*own_stop, *ask.stop],
            "stream": True,
            # An event for each batch of the prompt: while nothing is written, llama.cpp looks only
            # once a second whether anybody is there.
            "return_progress": True,
            "cache_prompt": True,
        }
        if self._has_adapter:
            body["lora"] = [{"id": 0, "scale": 1.0 if ask.variant == "tuned" else 0.0}]
        return body


def _event(line: str) -> dict[str, Any] | None:
    """An event of llama.cpp's stream.

    Raises:
        ServingError: If it tells of an error.
    """
    if line.startswith("data: "):
        event = json.loads(line.removeprefix("data: "))
    elif line.startswith(("{", "error: ")):
        event = json.loads(line.removeprefix("error: "))
    else:
        return None
    error = event.get("error", event if "content" not in event else None)
    if error is None:
        return event
    message = error.get("message", "no reason given") if isinstance(error, dict) else str(error)
    raise ServingError(502, f"llama.cpp refuses: {message}", code="engine_refused")


def _ended(event: dict[str, Any]) -> Ended:
    reason = "length" if event.get("stop_type") == "limit" else "stop"
    return Ended(reason, event.get("tokens_evaluated"), event.get("tokens_predicted"))

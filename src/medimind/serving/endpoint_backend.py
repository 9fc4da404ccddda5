"""A remote OpenAI-compatible endpoint, such as vLLM for many users, as what answers."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncGenerator
from typing import Any

import httpx

from medimind.engines.engine import Variant
from medimind.prompts.live import LiveOutput, Said
from medimind.serving.backend import Ask, Ended
from medimind.serving.failures import ServingError, engine_unavailable

_CHECK_SECONDS = 5.0
_CONNECT_SECONDS = 10.0
_STALL_SECONDS = 120.0
_MOST_DETAIL = 300


class EndpointBackend:
    """Passes chats on; the only address that it connects to is the one given.

    Args:
        url: Address of the API, such as ``http://gpu-box:8000/v1``.
        models: Our names -> names there.
        api_key: Sent as bearer token.
        transport: Takes the place of the network.
    """

    kind = "endpoint"
    num_restarts = 0

    def __init__(
        self,
        url: str,
        *,
        models: dict[Variant, str],
        api_key: str | None = None,
        transport: httpx.AsyncBaseTransport | None = None,
    ) -> None:
        self._url = url.rstrip("/")
        self._models = models
        self._api_key = api_key
        self._transport = transport
        self._client: httpx.AsyncClient | None = None
        self._is_ready = False
        self._watch: asyncio.Task[None] | None = None

    @property
    def variants(self) -> tuple[Variant, ...]:
        """``tuned`` too where it has a name there."""
        return tuple(self._models)

    @property
    def is_ready(self) -> bool:
        """Whether the endpoint answered when it was last asked."""
        return self._is_ready

    async def start(self) -> None:
        """Begin to watch whether the endpoint answers; it may come later."""
        self._client = httpx.AsyncClient(
            trust_env=False,
            transport=self._transport,
            headers={"Authorization": f"Bearer {self._api_key}"} if self._api_key else {},
            timeout=httpx.Timeout(_STALL_SECONDS, connect=_CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
        )
        await self._check(self._client)
        self._watch = asyncio.create_task(self._keep_checking(self._client))

    async def close(self) -> None:
        """Close the connections."""
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        if self._client is not None:
            await self._client.aclose()

    async def prepare(self, ask: Ask) -> dict[str, Any]:
        """The request's body."""
        body: dict[str, Any] = {
            "model": self._models[ask.variant],
            "messages": [{"role": role, "content": text} for role, text in ask.messages],
            "max_tokens": ask.max_tokens,
            "temperature": ask.temperature,
            "top_p": ask.top_p,
            "seed": ask.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if ask.stop:
            body["stop"] = list(ask.stop)
        return body

    async def generate(
        self, ask: Ask, prepared: dict[str, Any]
    ) -> AsyncGenerator[Said | Ended, None]:
        """Pieces of the output, then its end.

        Raises:
            ServingError: If the endpoint refuses, fails, or its reply ends too early.
        """
        if self._client is None:
            raise engine_unavailable("the endpoint was not started")
        live, reason, usage = LiveOutput(is_open=False), None, {}
        try:
            async with self._client.stream(
                "POST", f"{self._url}/chat/completions", json=prepared
            ) as response:
                if response.status_code >= 400:
                    await response.aread()
                    raise _refusal(response)
                async for line in response.aiter_lines():
                    event = _event(line)
                    usage = event.get("usage") or usage
                    choice = (event.get("choices") or [{}])[0]
                    delta = choice.get("delta") or {}
                    thought = delta.get("reasoning_content") or delta.get("reasoning")
                    if thought:
                        yield Said("thinking", str(thought))
                    for said in live.push(str(delta.get("content") or "")):
                        yield said
                    reason = choice.get("finish_reason") or reason
        except httpx.TransportError as error:
            what = f"the endpoint cannot be reached ({type(error).__name__})"
            raise engine_unavailable(what) from None
        if reason is None:
            raise engine_unavailable("the endpoint's reply broke off", code="engine_stopped")
        for said in live.finish():
            yield said
        yield Ended(
            "length" if reason == "length" else "stop",
            usage.get("prompt_tokens"),
            usage.get("completion_tokens"),
        )

    async def _keep_checking(self, client: httpx.AsyncClient) -> None:
        while True:
            await asyncio.sleep(_CHECK_SECONDS)
            await self._check(client)

    async def _check(self, client: httpx.AsyncClient) -> None:
        try:
            response = await client.get(f"{self._url}/models", timeout=_CHECK_SECONDS)
            self._is_ready = response.status_code < 500
        except httpx.HTTPError:
            self._is_ready = False


def _event(line: str) -> dict[str, Any]:
    data = line.removeprefix("data:").strip() if line.startswith("data:") else ""
    try:
        event = json.loads(data)
    except ValueError:  # "[DONE]", a comment, an empty line
        return {}
    if not isinstance(event, dict):
        return {}
    if event.get("error"):
        raise ServingError(502, f"the endpoint fails: {_detail(event)}", code="engine_refused")
    return event


def _refusal(response: httpx.Response) -> ServingError:
    """What the endpoint's status means for our client."""
    status = response.status_code
    try:
        detail = _detail(response.json())
    except ValueError:
        detail = f"status {status}"
    if status in (400, 413, 422):
        return ServingError(400, f"the endpoint refuses: {detail}", code="engine_refused")
    if status in (429, 503):
        return engine_unavailable(f"the endpoint is busy: {detail}")
    return ServingError(502, f"the endpoint fails: {detail}", code="engine_refused")


def _detail(document: Any) -> str:
    error = document.get("error") if isinstance(document, dict) else None
    message = error.get("message") if isinstance(error, dict) else error
    return str(message or "no reason given")[:_MOST_DETAIL]

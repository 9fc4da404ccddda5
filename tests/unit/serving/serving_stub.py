"""An engine that says what it is told to, and the server around it without a socket."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import httpx

from medimind.prompts.live import Said
from medimind.serving.about import About, ModelFacts
from medimind.serving.access import give_access
from medimind.serving.admission import Admission
from medimind.serving.app import build_app
from medimind.serving.backend import Ask, Ended
from medimind.serving.guard import Places
from medimind.serving.limits import Limits
from medimind.serving.metrics import Metrics
from medimind.serving.serving import Serving

TOKEN = "a-token-that-only-the-tests-know"
CHAT = {"model": "base", "messages": [{"role": "user", "content": "What is fever?"}]}


class StubBackend:
    """Says ``pieces``; with a gate it waits before each until the gate is open."""

    kind = "stub"
    variants = ("base", "tuned")
    num_restarts = 0

    def __init__(
        self,
        pieces: Sequence[Said | Exception] = (Said("thinking", "Hm."), Said("answer", "Warm.")),
        *,
        gate: asyncio.Event | None = None,
    ) -> None:
        self.pieces, self.gate = pieces, gate
        self.asked: list[Ask] = []
        self.running = 0
        self.is_ready = True

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def prepare(self, ask: Ask) -> None:
        self.asked.append(ask)

    async def generate(self, ask: Ask, prepared: Any) -> AsyncGenerator[Said | Ended, None]:
        self.running += 1
        try:
            for piece in self.pieces:
                if self.gate is not None:
                    await self.gate.wait()
                if isinstance(piece, Exception):
                    raise piece
                yield piece
            yield Ended("stop", 3, len(self.pieces))
        finally:
            self.running -= 1


class StubForecaster:
    """Forecasts nothing, of any file."""

    def __init__(self, limits: Limits) -> None:
        self.is_ready = True
        self.facts = {"codes": [], "horizons_days": [], "risks": [], "example": None}
        self.admission = Admission(limits)

    async def forecast(self, records: bytes, *, horizons: Sequence[float]) -> bytes:
        return b"{}"


def make_serving(backend: Any = None, *, limits: Limits | None = None, **parts: Any) -> Serving:
    backend = backend or StubBackend()
    limits = limits or Limits()
    admission = Admission(limits)
    parts.setdefault("about", About(ModelFacts(name="stub")))
    return Serving(
        backend=backend,
        limits=limits,
        admission=admission,
        metrics=Metrics(admission=admission, backend=backend),
        **parts,
    )


def make_app(serving: Serving, *, origins: Sequence[str] = (), **more: Any) -> Any:
    return build_app(
        serving,
        access=give_access({TOKEN: "owner"}),
        places=Places(frozenset({"ward.test", "127.0.0.1"}), tuple(origins)),
        **more,
    )


def client(app: Any, *, token: str | None = TOKEN) -> httpx.AsyncClient:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    transport = httpx.ASGITransport(app=app, raise_app_exceptions=False)
    return httpx.AsyncClient(transport=transport, base_url="http://ward.test", headers=headers)


def ask(app: Any, method: str, url: str, *, token: str | None = TOKEN, **more: Any) -> Any:
    """One request, outside any loop."""

    async def go() -> httpx.Response:
        async with client(app, token=token) as http:
            return await http.request(method, url, **more)

    return asyncio.run(go())


def events(text: str) -> list[Any]:
    """The documents of a stream; its comments left out."""
    lines = [line.removeprefix("data: ") for line in text.split("\n\n") if line.startswith("data")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


class RawClient:
    """A client at the ASGI border: what it got, and when it hangs up, the test decides."""

    def __init__(
        self,
        app: Any,
        body: dict[str, Any] | None = None,
        *,
        content: bytes | None = None,
        path: str = "/v1/chat/completions",
    ) -> None:
        self.app, self.path = app, path
        self.body = content or json.dumps(body or {**CHAT, "stream": True}).encode()
        self.messages: list[dict[str, Any]] = []
        self.is_gone = asyncio.Event()
        self.changed = asyncio.Event()
        self._has_read = False
        self.task = asyncio.create_task(self.app(self._scope(), self._receive, self._send))

    async def hang_up(self) -> None:
        self.is_gone.set()
        await asyncio.wait_for(self.task, 5)

    async def until(self, holds: Any) -> None:
        async with asyncio.timeout(5):
            while not holds():
                self.changed.clear()
                await self.changed.wait()

    @property
    def text(self) -> str:
        return b"".join(one.get("body", b"") for one in self.messages).decode()

    @property
    def status(self) -> int | None:
        return self.messages[0]["status"] if self.messages else None

    async def _receive(self) -> dict[str, Any]:
        if not self._has_read:
            self._has_read = True
            return {"type": "http.request", "body": self.body, "more_body": False}
        await self.is_gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self.messages.append(message)
        self.changed.set()

    def _scope(self) -> dict[str, Any]:
        headers = {
            "host": "ward.test",
            "authorization": f"Bearer {TOKEN}",
            "content-type": "application/json",
        }
        return {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": "POST",
            "scheme": "http",
            "path": self.path,
            "raw_path": self.path.encode(),
            "query_string": b"",
            "root_path": "",
            "headers": [(name.encode(), value.encode()) for name, value in headers.items()],
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 2),
        }

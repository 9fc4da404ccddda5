"""The bound on a request's body, told in OpenAI's form."""

from __future__ import annotations

from collections.abc import Mapping

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from medimind.serving.failures import ServingError, error_response


class BodyLimit:
    """Refuses a body that says it is too long unread, and one that turns out so when it does."""

    def __init__(
        self, app: ASGIApp, *, most_bytes: int, by_path: Mapping[str, int] | None = None
    ) -> None:
        self._app, self._most_bytes, self._by_path = app, most_bytes, by_path or {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        told = Headers(scope=scope).get("content-length", "0")
        most_bytes = self._by_path.get(scope["path"], self._most_bytes)
        message = f"the body is longer than {most_bytes} bytes"
        if not told.isascii() or not told.isdigit() or int(told[:20]) > most_bytes:
            error = ServingError(413, message, code="body_too_large")
            # What follows is not read, so the connection cannot be used again.
            await error_response(error, headers={"Connection": "close"})(scope, receive, send)
            return
        num_bytes = 0

        async def receive_counted() -> Message:
            nonlocal num_bytes
            part = await receive()
            num_bytes += len(part.get("body", b""))
            if num_bytes > most_bytes:
                raise HTTPException(413, message)
            return part

        await self._app(scope, receive_counted, send)

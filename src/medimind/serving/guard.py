"""Who is let in: the Host and Origin allow-lists, and the token. Closed unless said otherwise."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from urllib.parse import urlsplit

from fastapi import Security
from fastapi.security import HTTPBearer
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from medimind.serving.access import Access
from medimind.serving.admission import Admission
from medimind.serving.failures import ServingError, error_response

PROTECTED = ("/v1", "/api", "/models", "/metrics")
"""Addresses, with all below them, that want a token."""
TOKEN = Security(HTTPBearer(auto_error=False, description="Checked before any route is."))
"""Tells the OpenAPI document of the token."""
CHATS = "/v1/chat/completions"
FORECASTS = "/api/forecast"


@dataclass(frozen=True, slots=True)
class Places:
    """Where the server may be asked from.

    Attributes:
        hosts: Names and addresses that the server answers to, lower case, without port.
        origins: Other pages that may ask, such as ``https://ward.example``.
    """

    hosts: Collection[str]
    origins: Collection[str] = field(default=())


class PlaceGuard:
    """Refuses a foreign ``Host`` (DNS rebinding) with 421 and a foreign ``Origin`` with 403."""

    def __init__(self, app: ASGIApp, *, places: Places) -> None:
        self._app, self._places = app, places

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        error = self._refusal(Headers(scope=scope), scheme=scope.get("scheme", "http"))
        if error is None:
            await self._app(scope, receive, send)
        else:
            await error_response(error)(scope, receive, send)

    def _refusal(self, headers: Headers, *, scheme: str) -> ServingError | None:
        host = headers.get("host", "")
        if host_name(host) not in self._places.hosts:
            return ServingError(
                421,
                "this server does not answer to that host name; start it with --allow-host NAME",
                code="foreign_host",
            )
        origin = headers.get("origin")
        own = f"{scheme}://{host}".lower()
        if origin is None or origin.lower() == own or origin in self._places.origins:
            return None
        return ServingError(
            403,
            "pages of that origin may not ask; start the server with --allow-origin ORIGIN",
            code="foreign_origin",
        )


class TokenGuard:
    """Wants a token for all addresses in ``PROTECTED``; tells the app whose it was."""

    def __init__(self, app: ASGIApp, *, access: Access) -> None:
        self._app, self._access = app, access

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        if scope["type"] == "http" and is_protected(scope["path"]):
            kind, _, token = Headers(scope=scope).get("authorization", "").partition(" ")
            who = self._access.who(token.strip()) if kind.lower() == "bearer" else None
            if who is None:
                await _no_token(given=bool(kind))(scope, receive, send)
                return
            scope.setdefault("state", {})["who"] = who
        await self._app(scope, receive, send)


class QueueGuard:
    """Refuses work while its queue is full, before bodies are read: a flood stays cheap."""

    def __init__(self, app: ASGIApp, *, queues: Mapping[str, Admission]) -> None:
        self._app, self._queues = app, queues

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, or refuse it."""
        is_work = scope["type"] == "http" and scope["method"] == "POST"
        queue = self._queues.get(scope["path"]) if is_work else None
        refusal = None if queue is None else queue.refusal()
        if refusal is None:
            await self._app(scope, receive, send)
        else:
            await error_response(refusal)(scope, receive, send)


def is_protected(path: str) -> bool:
    """Whether an address wants a token."""
    return any(path == start or path.startswith(f"{start}/") for start in PROTECTED)


def host_name(host: str) -> str:
    """The name in a ``Host`` header, without port and brackets; empty if it is none."""
    try:
        parts = urlsplit(f"//{host}")
        _ = parts.port
    except ValueError:
        return ""
    is_plain = parts.netloc == host and "@" not in host
    return (parts.hostname or "") if is_plain else ""


def _no_token(*, given: bool) -> ASGIApp:
    message = (
        "this token is not known" if given else "a token is needed: Authorization: Bearer TOKEN"
    )
    error = ServingError(401, message, code="invalid_api_key")
    return error_response(error, headers={"WWW-Authenticate": "Bearer"})

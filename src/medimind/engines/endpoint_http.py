"""One request to an endpoint, tried again while it may succeed."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from medimind.errors import EngineError

if TYPE_CHECKING:
    import httpx

Wait = Callable[[float], object]
"""Waits so many seconds; ``True`` if there is no point in waiting longer."""

_RETRIED = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
_REFUSED = frozenset({400, 413, 422})
_FIRST_SECONDS = 1.0
_MOST_SECONDS = 60.0
_MOST_ASKED_SECONDS = 600.0


class ItemRefusedError(Exception):
    """The endpoint will never answer this request; others it may."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


def post(
    client: httpx.Client,
    url: str,
    body: dict[str, Any],
    *,
    retries: int,
    wait: Wait,
    tell: Callable[[str], None] = lambda reason: None,
) -> dict[str, Any]:
    """The endpoint's JSON reply.

    Tried again, with pauses that double (or as ``Retry-After`` says), after a lost connection, a
    timeout, a reply that is no JSON or holds an error alone, and statuses that say *later*.

    Args:
        client: Sends the request.
        url: Where to.
        body: The request.
        retries: Further tries.
        wait: Waits between them; where it says ``True``, nothing more is wanted.
        tell: Called with the reason once it takes more than a second try.

    Raises:
        EngineError: It cannot be reached, or refuses all requests.
        ItemRefusedError: It refuses this one.
    """
    import httpx

    jitter = random.Random(f"{url}{body.get('seed')}")
    reason, tries = "", 0
    for attempt in range(retries + 1):
        pause = min(_FIRST_SECONDS * 2**attempt, _MOST_SECONDS) * (0.75 + 0.5 * jitter.random())
        try:
            response = client.post(url, json=body)
        except httpx.TransportError as error:
            reason = f"no connection ({type(error).__name__})"
        else:
            status = response.status_code
            if status < 300:
                document = _json(response)
                if document is not None and ("error" not in document or "choices" in document):
                    return document
                reason = (
                    "a reply that is no JSON object"
                    if document is None
                    else f"an error in place of an output: {_detail(response)}"
                )
            elif status in _REFUSED:
                raise ItemRefusedError(f"status {status}: {_detail(response)}")
            elif status in _RETRIED:
                reason = f"status {status}: {_detail(response)}"
                pause = _asked_pause(response.headers.get("retry-after"), default=pause)
            else:
                raise EngineError(
                    f"the endpoint answers with status {status}: {_detail(response)}",
                    where=url,
                    fix="Check the address, the model's name and the key",
                )
        tries = attempt + 1
        if tries == 2:
            tell(reason)
        if attempt < retries and wait(pause) is True:
            break
    raise EngineError(
        f"no answer after {tries} tries, the last: {reason}",
        where=url,
        fix="Check that the endpoint runs; what was answered is kept, and another run goes on",
    )


def _asked_pause(header: str | None, *, default: float) -> float:
    """Seconds that a ``Retry-After`` header asks for, as a number or as a date."""
    if not header:
        return default
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time.time()
        except ValueError:
            return default
    return min(max(seconds, 0.0), _MOST_ASKED_SECONDS)


def _json(response: httpx.Response) -> dict[str, Any] | None:
    try:
        document = response.json()
    except ValueError:
        return None
    return document if isinstance(document, dict) else None


def _detail(response: httpx.Response) -> str:
    """What the server says, in short."""
    document = _json(response) or {}
    error = document.get("error", document.get("message"))
    if isinstance(error, dict):
        error = error.get("message")
    text = error if isinstance(error, str) else response.text
    return " ".join(text.split())[:200] or "no reason given"

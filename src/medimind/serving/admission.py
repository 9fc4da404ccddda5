"""A bounded queue before the engine: first come, first served, and no more than fit."""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque

from medimind.serving.failures import ServingError, engine_unavailable
from medimind.serving.limits import Limits

_FIRST_GUESS_SECONDS = 5.0
_MOST_SECONDS = 60


class Place:
    """A request's place: waiting at first, then with one of the engine's slots."""

    def __init__(self, admission: Admission) -> None:
        self._admission = admission
        self._turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._deadline = time.monotonic() + admission.limits.queue_seconds
        self._since: float | None = None

    @property
    def is_served(self) -> bool:
        """Whether the place has a slot."""
        return self._turn.done() and not self._turn.cancelled() and not self._turn.exception()

    @property
    def num_before(self) -> int:
        """Requests that wait before this one."""
        return self._admission.num_before(self)

    async def turn(self, *, seconds: float) -> bool:
        """Wait up to so many seconds; whether the place has a slot.

        Raises:
            ServingError: If it waited too long, or the server is stopping.
        """
        await asyncio.wait([self._turn], timeout=min(seconds, self._rest()))
        if self._turn.done():
            self._turn.result()
            return True
        if self._rest() <= 0:
            raise ServingError(
                503,
                "the request waited too long for its turn",
                code="timeout",
                retry_after=self._admission.retry_after(),
            )
        return False

    def leave(self) -> None:
        """Give slot or place back; does nothing the second time."""
        self._admission.free(self)

    def serve(self) -> None:
        """The admission gives the slot."""
        self._since = time.monotonic()
        if not self._turn.done():
            self._turn.set_result(None)

    def refuse(self, error: ServingError) -> None:
        """The admission sends the request away."""
        if not self._turn.done():
            self._turn.set_exception(error)
            self._turn.exception()  # a request that has gone does not fetch it

    def seconds_served(self) -> float:
        """How long it has had its slot."""
        return 0.0 if self._since is None else time.monotonic() - self._since

    def _rest(self) -> float:
        return self._deadline - time.monotonic()


class Admission:
    """Gives ``limits.parallel`` slots in the order of arrival, and lets ``limits.queue`` wait."""

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self._served: set[Place] = set()
        self._waiting: deque[Place] = deque()
        self._mean_seconds = _FIRST_GUESS_SECONDS
        self._is_open = True

    @property
    def num_served(self) -> int:
        """Slots in use."""
        return len(self._served)

    @property
    def num_waiting(self) -> int:
        """Requests that wait."""
        return len(self._waiting)

    def enter(self) -> Place:
        """A place for a new request.

        Raises:
            ServingError: If the queue is full (429), or the server is stopping (503).
        """
        refusal = self.refusal()
        if refusal is not None:
            raise refusal
        place = Place(self)
        self._waiting.append(place)
        self._fill()
        return place

    def refusal(self) -> ServingError | None:
        """Why nobody can be let in now; ``None`` if there is room."""
        if not self._is_open:
            return engine_unavailable("the server is stopping", code="stopping")
        if len(self._served) < self.limits.parallel or len(self._waiting) < self.limits.queue:
            return None
        return ServingError(
            429,
            f"{self.num_served + self.num_waiting} requests are being answered or wait, and no "
            "more may",
            code="queue_full",
            retry_after=self.retry_after(),
        )

    def free(self, place: Place) -> None:
        """Take a request out, wherever it is."""
        if place in self._served:
            self._served.remove(place)
            self._mean_seconds += 0.1 * (place.seconds_served() - self._mean_seconds)
        elif place in self._waiting:
            self._waiting.remove(place)
        self._fill()

    def close(self) -> None:
        """Let nobody in any more, and send those away who wait."""
        self._is_open = False
        while self._waiting:
            self._waiting.popleft().refuse(
                engine_unavailable("the server is stopping", code="stopping")
            )

    def num_before(self, place: Place) -> int:
        """Requests that wait before one."""
        return self._waiting.index(place) if place in self._waiting else 0

    def retry_after(self) -> int:
        """Seconds until the queue has probably moved on by one."""
        return min(_MOST_SECONDS, max(1, math.ceil(self._mean_seconds / self.limits.parallel)))

    def _fill(self) -> None:
        while self._waiting and len(self._served) < self.limits.parallel:
            place = self._waiting.popleft()
            self._served.add(place)
            place.serve()

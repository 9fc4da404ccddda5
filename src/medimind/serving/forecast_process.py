"""The forecaster in a process of its own: one file at a time, each within its time."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from medimind.errors import EngineError
from medimind.serving.admission import Admission
from medimind.serving.engine_process import EngineProcess
from medimind.serving.failures import ServingError, engine_unavailable
from medimind.serving.limits import Limits

_AFTER_HANG_UP_SECONDS = 0.5


class ForecastProcess:
    """A fitted forecaster's process, with the queue before it.

    Args:
        forecaster: Folder that ``medimind forecast fit`` wrote.
        mapping: YAML that says what columns mean; ``None`` takes the defaults.
        limits: Bounds of queue and time.
        module: The worker's program.

    Attributes:
        admission: Requests in hand, those included whose file is still being sent.
    """

    def __init__(
        self,
        forecaster: Path,
        *,
        mapping: Path | None,
        limits: Limits,
        module: str = "medimind.serving.forecast_worker",
    ) -> None:
        self.admission = Admission(replace(limits, parallel=1 + limits.forecast_queue, queue=0))
        self._limits = limits
        settings = {
            "forecaster": str(forecaster),
            "mapping": None if mapping is None else str(mapping),
        }
        self.process = EngineProcess(settings, module=module, name="forecaster")
        self._turn = asyncio.Lock()
        self._clock: asyncio.Timeout | None = None

    @property
    def is_ready(self) -> bool:
        """Whether the process answers."""
        return self.process.ready.is_set()

    @property
    def facts(self) -> dict[str, Any]:
        """What it can forecast."""
        names = ("codes", "horizons_days", "risks", "example")
        return {name: self.process.greeting[name] for name in names}

    async def start(self) -> None:
        """Load the forecaster.

        Raises:
            EngineError: If it cannot be.
        """
        await self.process.start()

    async def close(self) -> None:
        """End the process."""
        await self.process.close()

    async def forecast(self, records: bytes, *, horizons: Sequence[float]) -> bytes:
        """The reply to a file, as JSON.

        A caller that is cancelled leaves the process half a second for what it is at; what is not
        done by then is ended with its process.

        Raises:
            ServingError: If the file cannot be used, or the process takes too long or dies.
        """
        try:
            async with asyncio.timeout(self._limits.queue_seconds):
                await self._turn.acquire()
        except TimeoutError:
            raise ServingError(
                503,
                "the request waited too long for its turn",
                code="timeout",
                retry_after=self.admission.retry_after(),
            ) from None
        head = {"bytes": len(records), "horizons": list(horizons)}
        work = asyncio.create_task(self._in_turn(head, records))
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            work.add_done_callback(_forget)
            if self._clock is not None:
                until = asyncio.get_running_loop().time() + _AFTER_HANG_UP_SECONDS
                with contextlib.suppress(RuntimeError):  # its time is up at this very moment
                    self._clock.reschedule(until)
            raise

    async def _in_turn(self, head: dict[str, Any], records: bytes) -> bytes:
        is_asked = False
        try:
            async with asyncio.timeout(self._limits.forecast_seconds) as self._clock:
                await self.process.ready.wait()
                is_asked = True
                status, reply = await self._exchange(head, records)
                is_asked = False
        except TimeoutError:
            raise ServingError(
                503,
                f"the forecast took more than {self._limits.forecast_seconds:g} seconds",
                code="timeout",
                retry_after=1,
            ) from None
        except (EngineError, OSError, EOFError, ValueError) as error:
            is_asked = isinstance(error, ValueError)  # else it ended by itself
            raise engine_unavailable(
                "the forecaster died and is started again; did this file do it?",
                code="engine_stopped",
            ) from None
        finally:
            self._clock = None
            if is_asked:
                self.process.kill()  # what it would still say belongs to nobody
            self._turn.release()
        if status != 200:
            told = json.loads(reply)
            raise ServingError(status, told["message"], code=told["code"])
        return reply

    async def _exchange(self, head: dict[str, Any], records: bytes) -> tuple[int, bytes]:
        source, target = self.process.pipes
        source.write(json.dumps(head).encode() + b"\n")
        source.write(records)
        await source.drain()
        line = await target.readline()
        if not line:
            raise EOFError("the process ended")
        told = json.loads(line)
        return told["status"], await target.readexactly(told["bytes"])


def _forget(task: asyncio.Task[bytes]) -> None:
    """Fetch an error that nobody waits for, so that asyncio does not complain of it."""
    if not task.cancelled():
        task.exception()

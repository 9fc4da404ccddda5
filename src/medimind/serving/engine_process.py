"""A process beside the server, watched over: started, and started again whenever it dies."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import secrets
import sys
from collections.abc import Mapping
from typing import Any

from medimind.errors import EngineError

logger = logging.getLogger(__name__)

_START_SECONDS = 600.0
_END_SECONDS = 2.0
_FIRST_PAUSE = 0.1
_LONGEST_LINE = 16 << 20  # a forecaster of many codes greets at length
_LONGEST_PAUSE = 10.0


class EngineProcess:
    """One process of `engine_worker`, or of another program that greets as it does.

    Args:
        settings: What the worker reads, but the key.
        module: The worker's program.
        name: What messages call it.

    Attributes:
        greeting: What it told when it was last started.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        *,
        module: str = "medimind.serving.engine_worker",
        name: str = "engine",
    ) -> None:
        self._settings, self._module, self._name = settings, module, name
        self._process: asyncio.subprocess.Process | None = None
        self._watch: asyncio.Task[None] | None = None
        self.greeting: Mapping[str, Any] = {}
        self.address = ""
        self.key = ""
        self.num_restarts = 0
        self.ready = asyncio.Event()

    @property
    def pid(self) -> int | None:
        """The process's id, while there is one."""
        return None if self._process is None else self._process.pid

    @property
    def pipes(self) -> tuple[asyncio.StreamWriter, asyncio.StreamReader]:
        """The process's input and output, for programs that are asked that way.

        Raises:
            EngineError: If there is no process now.
        """
        process = self._process
        if process is None or process.stdin is None or process.stdout is None:
            raise EngineError(f"the {self._name} is being started again")
        return process.stdin, process.stdout

    def kill(self) -> None:
        """End the process at once; it is then started again."""
        self.ready.clear()
        if self._process is not None:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()

    async def start(self) -> None:
        """Start the process, and watch over it from now on.

        Raises:
            EngineError: If it does not come up the first time.
        """
        await self._spawn()
        self._watch = asyncio.create_task(self._keep_alive())

    async def close(self) -> None:
        """End the process and the watch."""
        self.ready.clear()
        if self._watch is not None:
            self._watch.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await self._watch
        await self._end()

    async def _keep_alive(self) -> None:
        pause = 0.0
        while True:
            if self._process is not None:
                code = await self._process.wait()
                self.ready.clear()
                logger.warning("the %s ended (code %s) and is started again", self._name, code)
                self.num_restarts += 1
            await asyncio.sleep(pause)
            try:
                await self._spawn()
                pause = 0.0
            except EngineError as error:
                pause = min(max(2 * pause, _FIRST_PAUSE), _LONGEST_PAUSE)
                logger.error("the %s does not start: %s", self._name, error)

    async def _spawn(self) -> None:
        await self._end()
        self.key = secrets.token_urlsafe(32)
        self._process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            self._module,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LONGEST_LINE,
            stderr=asyncio.subprocess.DEVNULL,  # llama.cpp might write a prompt there
            start_new_session=True,  # a Ctrl-C in the terminal is the server's to handle
        )
        try:
            async with asyncio.timeout(_START_SECONDS):
                told = await self._greet(self._process)
        except TimeoutError:
            told = {"error": f"the {self._name} was not ready within {_START_SECONDS:g} seconds"}
        if "address" not in told:
            await self._end()
            raise EngineError(told["error"], where=told.get("where"), fix=told.get("fix"))
        self.address, self.greeting = told["address"], told
        self.ready.set()

    async def _greet(self, process: asyncio.subprocess.Process) -> dict[str, Any]:
        if process.stdin is None or process.stdout is None:
            raise AssertionError("the process was started without pipes")
        died = {"error": f"the {self._name}'s process died while it started"}
        try:
            process.stdin.write(json.dumps({**self._settings, "key": self.key}).encode() + b"\n")
            await process.stdin.drain()
            line = await process.stdout.readline()
            return json.loads(line) if line else died
        except (ConnectionError, ValueError):
            return died

    async def _end(self) -> None:
        process, self._process = self._process, None
        if process is None:
            return
        if process.stdin is not None:
            process.stdin.close()
        try:
            async with asyncio.timeout(_END_SECONDS):
                await process.wait()
        except TimeoutError:
            process.kill()
            await process.wait()

"""The server's life: engine up, socket open, requests answered, everything ended in order."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import FrameType

import uvicorn
from fastapi import FastAPI

from medimind.serving.certificate import TlsFiles
from medimind.serving.patience import patient_protocol
from medimind.serving.serving import Serving

logger = logging.getLogger(__name__)

_KEEP_ALIVE_SECONDS = 15
_OTHER_FILES = 512
"""Files, pipes and the engine's connections."""


async def serve(
    app: FastAPI,
    serving: Serving,
    *,
    listener: socket.socket,
    tls: TlsFiles | None = None,
    on_ready: Callable[[], None] = lambda: None,
) -> None:
    """Answer until SIGINT or SIGTERM; running answers then get ``grace_seconds``.

    Args:
        app: From `build_app`.
        serving: What it shares.
        listener: From `bind`.
        tls: Certificate and key; ``None`` serves plain http.
        on_ready: Called when requests are answered.

    Raises:
        MediMindError: If the engine does not start.
    """
    try:
        await serving.backend.start()
        if serving.forecaster is not None:
            await serving.forecaster.start()
        serving.about.files.start()
        limits = replace(serving.limits, connections=allow_connections(serving.limits.connections))
        config = uvicorn.Config(
            app,
            http=patient_protocol(limits),
            ws="none",
            lifespan="off",
            log_config=None,
            access_log=False,  # addresses hold report tickets
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE_SECONDS,
            timeout_graceful_shutdown=max(1, round(serving.limits.grace_seconds)),
            h11_max_incomplete_event_size=32 << 10,
            ssl_certfile=None if tls is None else str(tls.certificate),
            ssl_keyfile=None if tls is None else str(tls.key),
        )
        logging.getLogger("uvicorn.error").addFilter(_is_worth_telling)
        server = _Server(config, on_exit=lambda: _let_nobody_in(serving))
        ready = asyncio.create_task(_when_started(server, on_ready))
        try:
            await server.serve(sockets=[listener])
        finally:
            ready.cancel()
            await server.hang_up()
    finally:
        listener.close()
        if serving.forecaster is not None:
            await serving.forecaster.close()
        await serving.backend.close()
        if serving.audit is not None:
            serving.audit.close()


def allow_connections(count: int) -> int:
    """How many may be open at a time, after this process's bound on files was raised for them.

    The bound is 1,024 on many systems; where it cannot be raised, fewer connections are kept.
    """
    try:
        import resource
    except ImportError:  # Windows has no such bound
        return count
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return count
    wanted = count + _OTHER_FILES
    if soft < wanted:
        most = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        logger.warning("of %d files that may be open, %d are kept for connections", soft,
                       max(1, soft - _OTHER_FILES))  # fmt: skip
    return min(count, max(1, soft - _OTHER_FILES))


class _Server(uvicorn.Server):
    """Tells when it is asked to end, and leaves the process to end by itself afterwards."""

    def __init__(self, config: uvicorn.Config, *, on_exit: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_exit = on_exit

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGINT and SIGTERM for a while; they are not raised again at the end."""
        handled = (signal.SIGINT, signal.SIGTERM)
        before = {one: signal.signal(one, self.handle_exit) for one in handled}
        try:
            yield
        finally:
            for one, handler in before.items():
                signal.signal(one, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """End after the running answers; at once if asked a second time."""
        self.force_exit = self.should_exit
        self.should_exit = True
        asyncio.get_running_loop().call_soon_threadsafe(self._on_exit)

    async def hang_up(self) -> None:
        """Close whatever is still open, as after a second Ctrl-C, so that no socket outlives us."""
        for one in getattr(self, "servers", ()):  # uvicorn sets it when it starts to listen
            one.close()
        for connection in list(self.server_state.connections):
            connection.transport.abort()
        await asyncio.sleep(0)  # in which the sockets are closed


def _let_nobody_in(serving: Serving) -> None:
    serving.admission.close()
    if serving.forecaster is not None:
        serving.forecaster.admission.close()


async def _when_started(server: uvicorn.Server, call: Callable[[], None]) -> None:
    while not server.started:
        await asyncio.sleep(0.01)
    call()


def _is_worth_telling(record: logging.LogRecord) -> bool:
    """Broken requests and clients that went away are everyday events."""
    return record.levelno >= logging.ERROR and "without completing response" not in record.msg

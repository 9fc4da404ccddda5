"""uvicorn's HTTP protocol, with an end to its patience for slow senders and readers."""

from __future__ import annotations

import asyncio

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from medimind.serving.limits import Limits


def patient_protocol(limits: Limits) -> type[H11Protocol]:
    """The protocol class, with a server's limits in it.

    A connection is aborted when a request is not complete ``read_seconds`` after it began (or the
    connection did), and when its full write buffer was not read for ``write_seconds``.
    """

    class PatientProtocol(H11Protocol):
        _read_timer: asyncio.TimerHandle | None = None
        _write_timer: asyncio.TimerHandle | None = None

        def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.abort()
            else:
                self._read_timer = self.loop.call_later(limits.read_seconds, transport.abort)

        def connection_lost(self, exc: Exception | None) -> None:
            self._expect_request(False)
            self._expect_reader(False)
            super().connection_lost(exc)

        def data_received(self, data: bytes) -> None:
            super().data_received(data)
            # DONE: the request was read to its end, and what follows is the answer's time.
            self._expect_request(self.conn.their_state in (h11.IDLE, h11.SEND_BODY))

        def on_response_complete(self) -> None:
            super().on_response_complete()
            self._expect_request(False)  # until the next byte uvicorn's keep-alive limit counts

        def pause_writing(self) -> None:
            super().pause_writing()
            self._expect_reader(True)

        def resume_writing(self) -> None:
            super().resume_writing()
            self._expect_reader(False)

        def timeout_keep_alive_handler(self) -> None:
            super().timeout_keep_alive_handler()
            self._expect_reader(True)  # closing waits until all is read

        def _expect_request(self, is_expected: bool) -> None:
            if not is_expected and self._read_timer is not None:
                self._read_timer.cancel()
                self._read_timer = None
            elif is_expected and self._read_timer is None and not self.transport.is_closing():
                self._read_timer = self.loop.call_later(limits.read_seconds, self.transport.abort)

        def _expect_reader(self, is_expected: bool) -> None:
            if self._write_timer is not None:
                self._write_timer.cancel()
                self._write_timer = None
            if is_expected:
                self._write_timer = self.loop.call_later(limits.write_seconds, self.transport.abort)

    return PatientProtocol

"""Slow and broken clients against the real HTTP protocol, on the loopback."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import time

import pytest
from serving_stub import CHAT, TOKEN, StubBackend, make_app, make_serving

from medimind.prompts.live import Said
from medimind.serving.addresses import bind
from medimind.serving.limits import Limits
from medimind.serving.run import serve

HEAD = f"Host: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\nContent-Type: application/json\r\n"
OPENED: list[asyncio.StreamWriter] = []


def chat(**more):
    body = json.dumps({**CHAT, **more}).encode()
    head = f"POST /v1/chat/completions HTTP/1.1\r\n{HEAD}Content-Length: {len(body)}\r\n\r\n"
    return head.encode() + body


@contextlib.asynccontextmanager
async def served(backend=None, **limits):
    """A server in this loop; yields its parts and its port."""
    serving = make_serving(backend, limits=Limits(**limits))
    listener = bind("127.0.0.1", 0)
    port = listener.getsockname()[1]
    ready = asyncio.Event()
    task = asyncio.create_task(
        serve(make_app(serving), serving, listener=listener, on_ready=ready.set)
    )
    await asyncio.wait_for(ready.wait(), 10)
    try:
        yield serving, port
    finally:
        while OPENED:
            writer = OPENED.pop()
            writer.transport.abort()
            with contextlib.suppress(ConnectionError):
                await writer.wait_closed()
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await asyncio.sleep(0)


async def connect(port):
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    OPENED.append(writer)
    return reader, writer


@pytest.mark.parametrize("sent", [b"", b"GET / HT", chat()[:-5]], ids=["nothing", "head", "body"])
def test_a_request_that_does_not_arrive_loses_its_connection(sent):
    async def go():
        async with served(read_seconds=0.2) as (serving, port):
            reader, writer = await connect(port)
            writer.write(sent)
            started = time.perf_counter()
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 5) == b""
            assert time.perf_counter() - started > 0.1
            assert serving.admission.num_served == 0

    asyncio.run(go())


def test_trickling_does_not_buy_time():
    async def go():
        async with served(read_seconds=0.3) as (_, port):
            reader, writer = await connect(port)

            async def trickle():
                with contextlib.suppress(ConnectionError):
                    for byte in chat():
                        writer.write(bytes([byte]))
                        await writer.drain()
                        await asyncio.sleep(0.02)

            task = asyncio.create_task(trickle())
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 5) == b""
            task.cancel()

    asyncio.run(go())


def test_an_answer_may_take_longer_than_a_request():
    async def go():
        gate = asyncio.Event()
        async with served(StubBackend(gate=gate), read_seconds=0.1) as (_, port):
            reader, writer = await connect(port)
            writer.write(chat())
            await asyncio.sleep(0.3)
            gate.set()
            head = await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), 5)
            assert b" 200 OK" in head

    asyncio.run(go())


def test_a_reader_that_stops_loses_its_connection_and_its_slot():
    async def go():
        backend = StubBackend([Said("answer", "x" * 100_000)] * 400)
        async with served(backend, write_seconds=0.3, parallel=1) as (serving, port):
            _, writer = await connect(port)
            writer.write(chat(stream=True))
            async with asyncio.timeout(10):
                while backend.running == 0:
                    await asyncio.sleep(0.01)
                while serving.admission.num_served:
                    await asyncio.sleep(0.01)
            assert backend.running == 0

    asyncio.run(go())


@pytest.mark.parametrize(
    "sent",
    [
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + b"\0" * 200,
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /\x00 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"X: " + b"a" * 100_000 + b"\r\n\r\n",
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n",
        b"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\nX",
        b"POST / HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n",
    ],
)
def test_broken_requests_end_quickly_and_hurt_nobody(sent):
    async def go():
        async with served(read_seconds=0.5) as (_, port):
            reader, writer = await connect(port)
            writer.write(sent)
            with contextlib.suppress(ConnectionError):
                reply = await asyncio.wait_for(reader.readline(), 5)
                assert b" 5" not in reply
            reader, writer = await connect(port)
            writer.write(f"GET /healthz HTTP/1.1\r\n{HEAD}\r\n".encode())
            assert b" 200 OK" in await asyncio.wait_for(reader.readuntil(b"\r\n"), 5)

    asyncio.run(go())


def test_a_running_answer_is_finished_before_the_server_ends():
    async def go():
        gate = asyncio.Event()
        async with served(StubBackend(gate=gate)) as (_, port):
            reader, writer = await connect(port)
            writer.write(chat(stream=True))
            await asyncio.wait_for(reader.readuntil(b"assistant"), 5)
            idle, _ = await connect(port)
            os.kill(os.getpid(), signal.SIGTERM)
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(idle.read(), 5) == b""  # nobody waits for it
            with pytest.raises(ConnectionError):
                await connect(port)
            gate.set()
            assert (await asyncio.wait_for(reader.read(), 5)).endswith(b"[DONE]\n\n\r\n0\r\n\r\n")

    asyncio.run(go())


def test_an_answer_that_takes_longer_than_the_grace_is_cut_off():
    async def go():
        async with served(StubBackend(gate=asyncio.Event()), grace_seconds=1) as (serving, port):
            reader, writer = await connect(port)
            writer.write(chat(stream=True))
            await asyncio.wait_for(reader.readuntil(b"assistant"), 5)
            os.kill(os.getpid(), signal.SIGTERM)
            with contextlib.suppress(ConnectionError):
                assert b"[DONE]" not in await asyncio.wait_for(reader.read(), 10)
            assert serving.admission.num_served == 0

    asyncio.run(go())


def test_files_for_all_connections_may_be_open_or_fewer_connections_are_kept():
    code = (
        "import resource as r; from medimind.serving.run import allow_connections as allow;"
        "r.setrlimit(r.RLIMIT_NOFILE, (256, 1024));"
        "print(allow(100), r.getrlimit(r.RLIMIT_NOFILE)[0], allow(4096))"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert said.stdout.split() == ["100", "612", "512"]
    assert "512 are kept for connections" in said.stderr


def test_too_many_connections_are_closed():
    async def go():
        async with served(connections=2) as (_, port):
            _ = [await connect(port) for _ in range(2)]
            await asyncio.sleep(0.05)
            reader, _ = await connect(port)
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(reader.read(), 5) == b""

    asyncio.run(go())

"""The engine killed with SIGKILL, again and again: ready and answering after each time.

    python benchmarks/serving_kill.py --kills 100

The real server with the built-in model, through the command line. Every second kill comes in the
middle of a stream, which has to end with an error instead of hanging. Loopback only.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import statistics
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
from serving_client import Target, lines, running, stream_chat, write_result

MODEL = "smollm2-135m-instruct"


@contextlib.contextmanager
def real_server(*flags: str, model: str = MODEL) -> Iterator[Target]:
    """``medimind serve`` with a token of ours."""
    with tempfile.TemporaryDirectory() as folder:
        tokens = Path(folder) / "tokens"
        tokens.touch(0o600)
        tokens.write_text("owner token-of-the-load-benchmark\n")
        command = ["-m", "medimind", "serve", model, "--port", "0", "--token-file", str(tokens)]
        with running([*command, *flags]) as (process, _):
            assert process.stdout is not None
            address = next(line for line in process.stdout if "#token=" in line)
            yield Target(int(address.split("/#")[0].rsplit(":", 1)[1]), process.pid)


def engine_pid(target: Target) -> int | None:
    """The process of the engine, while there is one."""
    for child in psutil.Process(target.pid).children():
        with contextlib.suppress(psutil.NoSuchProcess):
            if "engine_worker" in " ".join(child.cmdline()):
                return child.pid
    return None


async def _until_ready(target: Target, *, killed: int) -> float:
    started = time.perf_counter()
    while True:
        is_new = engine_pid(target) not in (None, killed)
        if is_new and (await target.get("/readyz"))[0] == 200:
            return time.perf_counter() - started
        if time.perf_counter() - started > 60:
            raise RuntimeError("the engine does not come back")
        await asyncio.sleep(0.02)


async def _kill_in_a_stream(target: Target, *, pid: int) -> bool:
    """Whether the stream told of it, within five seconds."""
    reader, writer = await target.connect()
    try:
        writer.write(target.chat("Tell a long story.", max_tokens=500))
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head, head + await reader.read(1000)
        told = b""
        async with asyncio.timeout(60):
            async for line in lines(reader):
                told = line
                if b'"content":"' in line and b'"content":""' not in line:
                    break
        os.kill(pid, signal.SIGKILL)
        async with asyncio.timeout(5):
            async for line in lines(reader):
                told = line
        return b"engine_stopped" in told
    finally:
        writer.close()


async def _all(target: Target, *, kills: int) -> dict[str, object]:
    seconds, told, answered = [], 0, 0
    for number in range(kills):
        pid = engine_pid(target)
        assert pid is not None
        if number % 2:
            told += await _kill_in_a_stream(target, pid=pid)
        else:
            os.kill(pid, signal.SIGKILL)
        seconds.append(await _until_ready(target, killed=pid))
        status, text, _ = await stream_chat(target, "Say yes.", max_tokens=4, temperature=0)
        answered += status == 200 and bool(text)
    return {
        "kills": kills,
        "ready_again": len(seconds),
        "answered_afterwards": answered,
        "killed_within_a_stream": kills // 2,
        "streams_that_told_of_it": told,
        "median_seconds_until_ready": round(statistics.median(seconds), 2),
        "slowest_seconds_until_ready": round(max(seconds), 2),
        "slots_left_in_use": await target.in_use(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    arguments = parser.parse_args()
    with real_server("--context", "1024", "--parallel", "2") as target:
        found = asyncio.run(_all(target, kills=arguments.kills))
    write_result("serving_kill", "kills", found)


if __name__ == "__main__":
    main()

"""A client that can be as patient, slow or rude as a benchmark wants; loopback only."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from serving_stub import TOKEN

HERE = Path(__file__).parent
RESULTS = HERE / "results"


@dataclass
class Target:
    """A server under test."""

    port: int
    pid: int
    token: str = TOKEN

    def request(self, method: str, path: str, body: bytes = b"") -> bytes:
        head = (
            f"{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{self.port}\r\n"
            f"Authorization: Bearer {self.token}\r\nContent-Type: application/json\r\n"
            f"Content-Length: {len(body)}\r\n\r\n"
        )
        return head.encode() + body

    def chat(self, text: str, *, stream: bool = True, model: str = "base", **more: Any) -> bytes:
        messages = [{"role": "user", "content": text}]
        body = {"model": model, "messages": messages, "stream": stream, **more}
        return self.request("POST", "/v1/chat/completions", json.dumps(body).encode())

    async def connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection("127.0.0.1", self.port)

    async def get(self, path: str) -> tuple[int, bytes]:
        """Status and body of a short reply."""
        reader, writer = await self.connect()
        try:
            writer.write(self.request("GET", path))
            head = await reader.readuntil(b"\r\n\r\n")
            length = int(re.search(rb"content-length: (\d+)", head.lower())[1])
            return int(head.split()[1]), await reader.readexactly(length)
        finally:
            close(writer)

    async def in_use(self) -> int:
        """Slots in use and requests waiting."""
        _, text = await self.get("/metrics")
        return sum(
            int(float(value))
            for value in re.findall(rb"^medimind_(?:slots_used|queue) (\S+)", text, re.M)
        )


def close(writer: asyncio.StreamWriter, *, abort: bool = False) -> None:
    if abort:
        writer.transport.abort()
    else:
        writer.close()


async def lines(reader: asyncio.StreamReader) -> AsyncIterator[bytes]:
    """The events of a chunked reply, after its head."""
    while True:
        size = int((await reader.readuntil(b"\r\n")).strip() or b"0", 16)
        chunk = await reader.readexactly(size + 2)
        if size == 0:
            return
        for line in chunk[:-2].split(b"\n\n"):
            if line:
                yield line


async def stream_chat(target: Target, text: str, **more: Any) -> tuple[int, str, list[float]]:
    """Status, whole text and the time of each piece; raises if the stream does not end well."""
    reader, writer = await target.connect()
    try:
        writer.write(target.chat(text, **more))
        head = await reader.readuntil(b"\r\n\r\n")
        status = int(head.split()[1])
        if status != 200:
            return status, "", []
        said, times, is_done = [], [], False
        async for line in lines(reader):
            if line.startswith(b":"):
                continue
            if line == b"data: [DONE]":
                is_done = True
                continue
            event = json.loads(line.removeprefix(b"data: "))
            if "error" in event:
                raise RuntimeError(event["error"]["code"])
            for choice in event["choices"]:
                if piece := choice["delta"].get("content"):
                    said.append(piece)
                    times.append(time.perf_counter())
        if not is_done:
            raise RuntimeError("no [DONE]")
        return status, "".join(said), times
    finally:
        close(writer)


@contextlib.contextmanager
def stub_server(**options: Any) -> Iterator[Target]:
    """The stub server in a process of its own."""
    flags = [part for key, value in options.items() for part in (f"--{key}", str(value))]
    with running([str(HERE / "serving_stub.py"), *flags]) as (process, line):
        yield Target(int(line.split()[1]), process.pid)


@contextlib.contextmanager
def running(command: list[str], **more: Any) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """A Python program, with the first line that it prints."""
    process = subprocess.Popen(
        [sys.executable, *command], stdout=subprocess.PIPE, text=True, **more
    )
    try:
        assert process.stdout is not None
        yield process, process.stdout.readline()
    finally:
        process.terminate()
        process.wait(30)


def small_forecaster(folder: Path) -> Path:
    """A forecaster fitted in seconds to simulated patients."""
    from medimind.config.forecast_models import ForecastConfig
    from medimind.forecasting.fit import fit_forecaster
    from medimind.forecasting.simulate import simulate_cohort
    from medimind.forecasting.store import save_forecaster

    config = ForecastConfig(experts=("population_slope",), trees=None, num_folds=2, num_paths=16)
    save_forecaster(fit_forecaster(simulate_cohort(60, seed=1).records, config), folder / "model")
    return folder / "model"


def read_result(name: str, part: str) -> dict[str, Any]:
    """A part's figures in ``results/NAME.json``; empty where there are none."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text()).get(part, {}) if path.exists() else {}


def write_result(name: str, part: str, value: dict[str, Any]) -> None:
    """Keep a part's figures in ``results/NAME.json``, beside those of the other parts."""
    path = RESULTS / f"{name}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    known[part] = {
        "date": time.strftime("%Y-%m-%d"),
        "cores": len(os.sched_getaffinity(0)),
        "command": command,
        **value,
    }
    path.write_text(json.dumps(known, indent=2) + "\n")
    print(part, json.dumps(value, indent=2))

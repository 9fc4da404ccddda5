"""Every address that the server connects or sends to, from start to shutdown, as the kernel saw it.

    python benchmarks/serving_network.py          # needs strace and unshare (Linux)

The server runs under strace in a network namespace that has nothing but a loopback, as a local one
with a forecaster, and with an endpoint at 127.0.0.2. It starts, answers, forecasts, is hung up on,
gives a file, survives a killed engine, is stopped. Bar: no address but the engine's loopback port
and the endpoint's.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from serving_client import Target, small_forecaster, stream_chat, write_result
from serving_kill import MODEL, engine_pid

CALLS = "connect,sendto,sendmsg,sendmmsg"
_ADDRESS = re.compile(
    r'(connect|sendto|sendmsg|sendmmsg)\(.*?sin6?_port=htons\((\d+)\).*?(?:inet_addr\("([^"]+)"\)|'
    r'inet_pton\(AF_INET6, "([^"]+)")'
)
ENDPOINT = "127.0.0.2"


class _Endpoint(BaseHTTPRequestHandler):
    """Answers as vLLM would."""

    def do_GET(self) -> None:
        self._send("application/json", b'{"data": []}')

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["Content-Length"]))
        chunk = {"choices": [{"delta": {"content": "yes"}, "finish_reason": "stop"}]}
        self._send("text/event-stream", f"data: {json.dumps(chunk)}\n\ndata: [DONE]\n\n".encode())

    def _send(self, kind: str, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


async def _use(target: Target, *, has_engine: bool) -> None:
    """What clients do."""
    for path in ("/healthz", "/readyz", "/v1/models", "/api/about", "/metrics", "/"):
        await target.get(path)
    status, text, _ = await stream_chat(target, "Say yes.", max_tokens=8)
    assert status == 200, text
    assert text, "no answer"
    reader, writer = await target.connect()
    writer.write(target.chat("Tell a story.", max_tokens=200))
    await reader.readuntil(b"\r\n\r\n")
    writer.close()
    if has_engine:
        await _forecast(target)
        reader, writer = await target.connect()
        about = json.loads((await target.get("/api/about"))[1])
        writer.write(target.request("GET", about["device_files"][0]["url"]))
        await reader.readexactly(1 << 20)
        writer.close()
        await _kill_engine(target)


async def _forecast(target: Target) -> None:
    example = json.loads((await target.get("/api/forecast"))[1])["example"]
    reader, writer = await target.connect()
    writer.write(target.request("POST", "/api/forecast", example.encode()))
    head = await reader.readuntil(b"\r\n\r\n")
    assert b" 200 " in head, head
    writer.close()


async def _kill_engine(target: Target) -> None:
    pid = engine_pid(target)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    async with asyncio.timeout(120):
        while engine_pid(target) in (None, pid) or (await target.get("/readyz"))[0] != 200:
            await asyncio.sleep(0.1)
    assert (await stream_chat(target, "Say no.", max_tokens=4))[0] == 200


def _captured(flags: list[str], *, has_engine: bool) -> dict[str, object]:
    """Addresses of one server's life."""
    with tempfile.TemporaryDirectory() as folder:
        tokens, trace = Path(folder) / "tokens", Path(folder) / "trace"
        tokens.touch(0o600)
        tokens.write_text("owner token-of-the-load-benchmark\n")
        command = [sys.executable, "-m", "medimind", "serve", *flags, "--port", "0"]
        strace = ["strace", "-f", "-qq", "--seccomp-bpf", "-e", f"trace={CALLS}", "-o", str(trace)]
        process = subprocess.Popen(
            [*strace, *command, "--token-file", str(tokens)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        address = next(line for line in process.stdout if "#token=" in line)
        server = _child(process.pid)
        target = Target(int(address.split("/#")[0].rsplit(":", 1)[1]), server)
        asyncio.run(_use(target, has_engine=has_engine))
        os.kill(server, signal.SIGTERM)
        code = process.wait(60)
        text = trace.read_text(errors="replace")
    found = Counter(
        (match[3] or match[4]) for line in text.splitlines() if (match := _ADDRESS.search(line))
    )
    return {
        "exit_code": code,
        "calls_captured": len(text.splitlines()),
        "addresses": dict(sorted(found.items())),
    }


def _child(pid: int) -> int:
    return int(Path(f"/proc/{pid}/task/{pid}/children").read_text().split()[0])


def inside(forecaster: str) -> None:
    """In the namespace: both servers, figures to the standard output."""
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    endpoint = ThreadingHTTPServer((ENDPOINT, 0), _Endpoint)
    threading.Thread(target=endpoint.serve_forever, daemon=True).start()
    url = f"http://{ENDPOINT}:{endpoint.server_address[1]}/v1"
    flags = [MODEL, "--context", "512", "--forecaster", forecaster]
    local = _captured(flags, has_engine=True)
    remote = _captured(["m", "--endpoint", url], has_engine=False)
    print(json.dumps({"local": local, "endpoint": remote}))


def main() -> None:
    if "--inside" in sys.argv:
        inside(sys.argv[-1])
        return
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, "--inside", str(small_forecaster(Path(folder)))]
        done = subprocess.run(["unshare", "-n", *command], stdout=subprocess.PIPE, check=True)
    found = json.loads(done.stdout.splitlines()[-1])
    allowed = {"local": {"127.0.0.1"}, "endpoint": {ENDPOINT}}
    for part, one in found.items():
        one["foreign_addresses"] = sorted(set(one["addresses"]) - allowed[part])
    with contextlib.suppress(IndexError):
        sys.argv = sys.argv[:1]
    write_result("serving_network", "capture", found)
    assert not any(one["foreign_addresses"] for one in found.values())


if __name__ == "__main__":
    main()

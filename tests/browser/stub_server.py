"""A stand-in for `medimind serve` that answers what a test tells it to (docs/decisions/0005).

It serves the built app with the promised headers, the description of the model, scripted streams
and model files with ranges; it counts requests and notes those that lack the token.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

TOKEN = "test-token-0123456789"
STATIC = Path(__file__).resolve().parents[2] / "src/medimind/serving/static"
POLICY = (
    "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self' blob:; "
    "style-src 'self'; img-src 'self' data: blob:; font-src 'self'; "
    "connect-src 'self' blob: data:; "
    "manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
SECURE = {
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
TYPES = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".png": "image/png",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
}

EXAMPLE = "patient,time,code,value,unit\nmade-up,0,egfr,70,mL/min\n"
"""Records of nobody, as the server offers them."""
FORECAST = Path(__file__).resolve().parents[2] / "web/tests/forecast-answer.json"
"""What `POST /api/forecast` said of two patients, one of them hardly measured."""

Script = Callable[[dict[str, Any]], list[dict[str, Any]]]


def answer(text: str, *, thinking: str = "", pieces: int = 12) -> list[dict[str, Any]]:
    """Deltas of an answer, in about so many pieces."""

    def cut(whole: str) -> Iterator[str]:
        step = max(1, len(whole) // pieces)
        return (whole[at : at + step] for at in range(0, len(whole), step))

    thoughts = [{"reasoning_content": piece} for piece in cut(thinking)]
    return [*thoughts, *({"content": piece} for piece in cut(text))]


class StubServer:
    """Serves until it is closed; `script` decides each answer."""

    def __init__(
        self,
        *,
        files: dict[str, Path] | None = None,
        script: Script | None = None,
        about: dict[str, Any] | None = None,
        forecast: dict[str, Any] | None = None,
    ) -> None:
        self.script: Script = script or (
            lambda body: answer(f"You said: {body['messages'][-1]['content']}")
        )
        self.hold: threading.Event | None = None
        self._closed = False
        self.asked: list[dict[str, Any]] = []
        self.forecast = forecast
        self.records: list[tuple[str, str]] = []
        self.paths: list[str] = []
        self.without_token: list[str] = []
        self.files = dict(files or {})
        self._sums = {name: _digest(path) for name, path in self.files.items()}
        self.about = {**self._default_about(), **(about or {})}
        handler = type("Handler", (_Handler,), {"stub": self})
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        self._http.daemon_threads = True
        self._thread = threading.Thread(
            target=self._http.serve_forever, kwargs={"poll_interval": 0.05}
        )
        self._thread.start()

    @property
    def url(self) -> str:
        """The origin."""
        return f"http://127.0.0.1:{self._http.server_port}"

    @property
    def link(self) -> str:
        """What the code on the screen holds."""
        return f"{self.url}/#token={TOKEN}"

    def close(self) -> None:
        """Stop listening; connections that are open end."""
        if self.hold is not None:
            self.hold.set()
        if self._closed:
            return
        self._closed = True
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()

    def _default_about(self) -> dict[str, Any]:
        model = {
            "name": "smollm2-135m-clinical",
            "family": "llama",
            "quantization": "q4_1",
            "bytes": 98362432,
            "parameters": 134515008,
            "context": 2048,
            "license": "apache-2.0",
            "base_model": "SmolLM2-135M-Instruct",
            "sources": ["https://huggingface.co/HuggingFaceTB/SmolLM2-135M-Instruct"],
        }
        device_files = [
            {
                "name": name,
                "kind": "adapter" if "adapter" in name else "model",
                "url": f"/models/{name}",
                "bytes": path.stat().st_size,
                "sha256": self._sums[name],
            }
            for name, path in self.files.items()
        ]
        return {
            "version": "0.1.0",
            "model": model,
            "adapter": {"name": "clinical-adapter.gguf", "bytes": 1900000},
            "variants": ["base", "tuned"],
            "engine": {"kind": "llama.cpp", "ready": True},
            "limits": {"max_tokens": 4096, "max_body_bytes": 262144, "max_messages": 256},
            "device_files": device_files,
            "report": True,
            "forecast": self.forecast is not None,
            "notice": "Decision support for professionals and research; not a diagnosis.",
        }


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


class _Handler(BaseHTTPRequestHandler):
    stub: StubServer
    protocol_version = "HTTP/1.1"

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: tests print what matters."""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.stub.paths.append(path)
        if path.startswith(("/api", "/v1", "/models")):
            if self.headers.get("Authorization") != f"Bearer {TOKEN}":
                self.stub.without_token.append(path)
                self._json(401, {"error": {"message": "wrong token", "code": None}})
            elif path == "/api/about":
                self._json(200, self.stub.about)
            elif path == "/api/forecast" and self.stub.forecast is not None:
                self._json(200, {"codes": [], "horizons_days": [], "example": EXAMPLE})
            elif path.startswith("/models/") and path[8:] in self.stub.files:
                self._file(path[8:])
            else:
                self._json(404, {"error": {"message": "not found", "code": None}})
        else:
            self._static(path)

    def do_POST(self) -> None:
        self.stub.paths.append(self.path)
        text = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.stub.without_token.append(self.path)
            self._json(401, {"error": {"message": "wrong token", "code": None}})
        elif self.path == "/v1/chat/completions":
            body = json.loads(text or b"{}")
            self.stub.asked.append(body)
            self._stream(body)
        elif self.path == "/api/forecast" and self.stub.forecast is not None:
            self.stub.records.append((self.headers["Content-Type"], text.decode()))
            error = self.stub.forecast.get("error")
            self._json(400 if error else 200, self.stub.forecast)
        else:
            self._json(404, {"error": {"message": "not found", "code": None}})

    def _stream(self, body: dict[str, Any]) -> None:
        deltas = self.stub.script(body)
        if deltas and "error" in deltas[0]:
            error = deltas[0]
            self._json(
                error.get("status", 400), {"error": error["error"]}, error.get("headers", {})
            )
            return
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Connection", "close")
        self.end_headers()
        try:
            self._event({"choices": [{"delta": {"role": "assistant", "content": ""}}]})
            for index, delta in enumerate(deltas):
                if self.stub.hold is not None and index == len(deltas) // 2:
                    self.stub.hold.wait(20)
                self._event({"choices": [{"delta": delta}]})
            self._event({"choices": [{"delta": {}, "finish_reason": "stop"}]})
            self._event({"choices": [], "usage": {"completion_tokens": len(deltas)}})
            self.wfile.write(b"data: [DONE]\n\n")
        except (BrokenPipeError, ConnectionResetError):
            self.stub.paths.append("disconnected")
        self.close_connection = True

    def _event(self, chunk: dict[str, Any]) -> None:
        self.wfile.write(f"data: {json.dumps(chunk)}\n\n".encode())
        self.wfile.flush()

    def _file(self, name: str) -> None:
        content = self.stub.files[name].read_bytes()
        asked = re.match(r"bytes=(\d+)-$", self.headers.get("Range", ""))
        start = int(asked[1]) if asked else 0
        headers = {"ETag": f'"{self.stub._sums[name]}"'}
        if asked:
            headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        self._send(206 if asked else 200, content[start:], "application/octet-stream", headers)

    def _static(self, path: str) -> None:
        file = STATIC / path.lstrip("/")
        if path == "/" or "." not in path.rpartition("/")[2]:
            file = STATIC / "index.html"
        if not file.is_file():
            self._send(404, b"not found", "text/plain", SECURE)
            return
        content = file.read_bytes()
        kind = TYPES.get(file.suffix, "application/octet-stream")
        immutable = path.startswith("/assets/")
        headers = {
            "Cache-Control": "public, max-age=31536000, immutable" if immutable else "no-cache",
            **SECURE,
        }
        packed = Path(f"{file}.gz")
        if packed.is_file() and "gzip" in self.headers.get("Accept-Encoding", ""):
            content, headers["Content-Encoding"] = packed.read_bytes(), "gzip"
        elif kind.startswith("text/") and "gzip" in self.headers.get("Accept-Encoding", ""):
            content, headers["Content-Encoding"] = gzip.compress(content), "gzip"
        self._send(200, content, kind, headers)

    def _json(self, status: int, value: object, headers: dict[str, str] | None = None) -> None:
        self._send(status, json.dumps(value).encode(), "application/json", headers or {})

    def _send(self, status: int, content: bytes, kind: str, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        try:
            self.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

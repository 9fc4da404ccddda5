"""The phone app's files, as its build left them in ``static``."""

from __future__ import annotations

import mimetypes
import os
from pathlib import Path

from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import HTMLResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from medimind.serving.guard import PROTECTED

STATIC = Path(__file__).parent / "static"
_ENCODINGS = (("br", ".br"), ("gzip", ".gz"))
_NOT_THE_APPS = {prefix.strip("/") for prefix in PROTECTED}
_KINDS = {
    ".html": "text/html",
    ".js": "text/javascript",
    ".css": "text/css",
    ".svg": "image/svg+xml",
    ".wasm": "application/wasm",
    ".webmanifest": "application/manifest+json",
}
"""The system is not asked: Windows' registry may call scripts plain text, which no browser runs."""
_ONE_YEAR = "public, max-age=31536000, immutable"
_NOT_BUILT = """\
<!doctype html><html lang="en"><meta charset="utf-8"><title>MediMind</title>
<h1>The app is not in this installation</h1>
<p>The API works. To get the app too, install MediMind from a wheel, or build it in the checkout
with <code>python web/hatch_build.py</code>.</p></html>
"""


class AppFiles(StaticFiles):
    """Static files; an address without a file is the app's own, and gets its page.

    Args:
        folder: Of the built app.
    """

    def __init__(self, folder: Path = STATIC) -> None:
        super().__init__(directory=folder, check_dir=False)
        self._folder = folder
        self.config_checked = True  # without the folder there is a page that says so

    async def get_response(self, path: str, scope: Scope) -> Response:
        """A file, the app's page, or what is missing."""
        if scope["method"] not in ("GET", "HEAD"):
            raise HTTPException(405, headers={"Allow": "GET, HEAD"})
        if not (self._folder / "index.html").is_file():
            return HTMLResponse(_NOT_BUILT, status_code=404)
        name = await self._found(path)
        compressed, encoding = self._compressed(name, Headers(scope=scope))
        response = await super().get_response(compressed, scope)
        if encoding:
            response.headers["Content-Encoding"] = encoding
        if response.status_code == 200:
            response.headers["Content-Type"] = _media_type(name)
        response.headers["Vary"] = "Accept-Encoding"
        is_asset = name.startswith("assets" + os.sep)
        response.headers["Cache-Control"] = _ONE_YEAR if is_asset else "no-cache"
        if name == "sw.js":
            response.headers["Service-Worker-Allowed"] = "/"
        return response

    async def _found(self, path: str) -> str:
        """The file that an address means.

        Raises:
            HTTPException: If it names a file that is not there.
        """
        try:
            _, stat = self.lookup_path(path)
        except (ValueError, OSError):
            raise HTTPException(404) from None
        if path != "." and stat is not None and (self._folder / path).is_file():
            return path
        first = next(iter(Path(path.strip(os.sep)).parts), "").casefold()
        if "." in path.rsplit(os.sep, 1)[-1].strip(".") or first in _NOT_THE_APPS:
            raise HTTPException(404)
        return "index.html"

    def _compressed(self, name: str, headers: Headers) -> tuple[str, str | None]:
        accepted = {
            part.split(";")[0].strip().lower()
            for part in headers.get("accept-encoding", "").split(",")
        }
        for encoding, suffix in _ENCODINGS:
            if encoding in accepted and (self._folder / f"{name}{suffix}").is_file():
                return f"{name}{suffix}", encoding
        return name, None


def _media_type(name: str) -> str:
    known = _KINDS.get(Path(name).suffix)
    kind = known or mimetypes.guess_type(name)[0] or "application/octet-stream"
    is_text = kind.startswith("text/") or kind in ("application/json", "image/svg+xml")
    return f"{kind}; charset=utf-8" if is_text else kind

"""GGUF files for answering on the device itself: only those that the server was started with."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal
from urllib.parse import quote

from fastapi import Request, Response
from pydantic import BaseModel
from starlette.responses import FileResponse

from medimind.formats.folder import hash_file
from medimind.serving.failures import ServingError


class DeviceFile(BaseModel):
    """A file that a device may fetch."""

    name: str
    kind: Literal["model", "adapter"]
    url: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class _Offer:
    path: Path
    kind: Literal["model", "adapter"]


class DeviceFiles:
    """Model and adapter, by their names; hashed once, beside the first requests.

    Args:
        model: The model's file; ``None`` offers nothing.
        adapter: The adapter's.
    """

    def __init__(self, model: Path | None = None, adapter: Path | None = None) -> None:
        self._offers: dict[str, _Offer] = {}
        if model is not None:
            self._offers[model.name] = _Offer(model, "model")
            if adapter is not None:
                name = adapter.name if adapter.name != model.name else f"adapter-{adapter.name}"
                self._offers[name] = _Offer(adapter, "adapter")
        self._hashing: asyncio.Task[dict[str, str]] | None = None

    def start(self) -> None:
        """Begin to hash."""
        self._hashing = asyncio.create_task(asyncio.to_thread(self._hash_all))

    async def listed(self) -> Sequence[DeviceFile]:
        """What is offered."""
        hashes = await self._hashes()
        return [
            DeviceFile(
                name=name,
                kind=offer.kind,
                url=f"/models/{quote(name)}",
                bytes=offer.path.stat().st_size,
                sha256=hashes[name],
            )
            for name, offer in self._offers.items()
        ]

    async def response(self, name: str, request: Request) -> Response:
        """A file, or the part of it that a ``Range`` header asks for.

        Raises:
            ServingError: If no file of that name is offered.
        """
        offer = self._offers.get(name)
        if offer is None:
            raise ServingError(404, "no file of that name is offered", code="not_found")
        etag = f'"{(await self._hashes())[name]}"'
        headers = {"ETag": etag, "Cache-Control": "private, no-cache"}
        known = request.headers.get("if-none-match", "")
        if etag in [tag.strip().removeprefix("W/") for tag in known.split(",")]:
            return Response(status_code=304, headers=headers)
        return FileResponse(
            offer.path,
            headers=headers,
            media_type="application/octet-stream",
            stat_result=offer.path.stat(),
        )

    async def _hashes(self) -> dict[str, str]:
        if self._hashing is None:
            self.start()
        assert self._hashing is not None
        return await asyncio.shield(self._hashing)

    def _hash_all(self) -> dict[str, str]:
        return {name: hash_file(offer.path) for name, offer in self._offers.items()}

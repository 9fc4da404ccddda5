"""The program of the engine's process: llama.cpp's server on a loopback port, until told to end.

The first line of its input holds the settings (the key among them, so that it stands in no process
list); the first line of its output tells the address. It ends when its input does, so it never
outlives the server.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from medimind.engines.llama_server import start_llama
from medimind.errors import MediMindError


def main() -> None:
    """Serve until the input ends."""
    settings = json.loads(sys.stdin.readline())
    try:
        server = _start(settings)
    except MediMindError as error:
        _tell({"error": error.message, "where": error.where, "fix": error.fix})
        sys.exit(1)
    _tell({"address": server.listening_address})
    sys.stdin.read()
    # Without a farewell: unwinding llama.cpp's threads may take as long as a batch.
    os._exit(0)


def _start(settings: dict[str, Any]) -> Any:
    adapter = settings["adapter"]
    server = start_llama(
        Path(settings["model"]),
        key=settings["key"],
        adapter=Path(adapter) if adapter else None,
        context=settings["context"],
        parallel=settings["parallel"],
        threads=settings["threads"],
        batch=settings["batch"],
    )
    # One token, so that the first question finds everything in memory.
    server.handle_completions({"prompt": [0], "n_predict": 1, "cache_prompt": False})
    return server


def _tell(value: dict[str, Any]) -> None:
    sys.stdout.write(json.dumps(value) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()

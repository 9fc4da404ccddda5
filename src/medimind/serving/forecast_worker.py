"""The program of the forecaster's process: a patient's file in, a forecast out, until told to end.

The first line of its input holds the settings, the first of its output what the forecaster can do.
Then, again and again, a line of JSON with the length of what follows it, both ways:

```
{"bytes": 812, "horizons": []}          {"bytes": 5310, "status": 200}
patient,time,code,value,unit ...        {"patients": [...], ...}
```

It holds no torch, opens no connection, and may use 2 GiB more than it has when it is ready, so a
file made to fill the memory ends this process and no other.
"""

from __future__ import annotations

import contextlib
import json
import os
import sys
from pathlib import Path
from typing import IO, Any

from medimind.errors import DataError, MediMindError, MissingExtraError

_MORE_BYTES = 2 << 30


def main() -> None:
    """Answer until the input ends."""
    source, target = sys.stdin.buffer, sys.stdout.buffer
    settings = json.loads(source.readline())
    try:
        desk = _open(settings)
    except MediMindError as error:
        _send(target, {"error": error.message, "where": error.where, "fix": error.fix})
        sys.exit(1)
    _send(target, {"address": "its input and output", **desk.facts()})
    _bound_memory()
    while line := source.readline():
        asked = json.loads(line)
        content = source.read(asked["bytes"])
        status, reply = _answer(desk, content, asked)
        _send(target, {"bytes": len(reply), "status": status}, reply)


def _open(settings: dict[str, Any]) -> Any:
    try:
        from medimind.serving.forecast_desk import open_desk
    except ImportError as error:
        raise MissingExtraError(error.name or "scipy", extra="forecast") from error
    mapping = settings["mapping"]
    return open_desk(Path(settings["forecaster"]), mapping=Path(mapping) if mapping else None)


def _answer(desk: Any, content: bytes, asked: dict[str, Any]) -> tuple[int, bytes]:
    """Status and JSON; errors as ``{"message", "code"}``."""
    from medimind.serving.forecast_desk import TooManyPatientsError, plain

    try:
        return 200, _json(desk.forecast(content, horizons=asked["horizons"]))
    except TooManyPatientsError as error:
        return 413, _json({"message": plain(error), "code": "too_many_patients"})
    except MissingExtraError as error:
        return 500, _json({"message": str(error), "code": "bug"})
    except DataError as error:
        return 400, _json({"message": plain(error), "code": "invalid_records"})
    except RecursionError:
        told = "the file is nested too deeply"
        return 400, _json({"message": told, "code": "invalid_records"})
    except MemoryError:
        told = "the file needs more memory than one patient's records may"
        return 413, _json({"message": told, "code": "body_too_large"})
    except Exception as error:  # what it says might be a patient's: only its kind is told
        told = f"this is a bug of the forecaster's ({type(error).__name__})"
        return 500, _json({"message": told, "code": "bug"})


def _bound_memory() -> None:
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
        most = pages * os.sysconf("SC_PAGE_SIZE") + _MORE_BYTES
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        if hard in (resource.RLIM_INFINITY,) or most < hard:
            resource.setrlimit(resource.RLIMIT_AS, (most, hard))


def _json(value: Any) -> bytes:
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


def _send(target: IO[bytes], head: dict[str, Any], content: bytes = b"") -> None:
    target.write(_json(head) + b"\n" + content)
    target.flush()


if __name__ == "__main__":
    main()

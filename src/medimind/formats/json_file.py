"""JSON objects from files that others wrote, with damage told apart from bugs."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NoReturn

from medimind.errors import CheckpointError, MediMindError

MAX_BYTES = 64 << 20  # a tokenizer.json of 256,000 tokens takes 35 MB


def read_json_object(
    path: Path,
    *,
    error: type[MediMindError] = CheckpointError,
    max_bytes: int = MAX_BYTES,
) -> dict[str, Any]:
    """The object a JSON file holds; a byte-order mark is skipped.

    Args:
        path: The file.
        error: What is raised.
        max_bytes: Larger files are refused unread.

    Raises:
        MediMindError: As ``error``, if the file is missing, too large, not UTF-8, not JSON, or
            holds something else than an object.
    """
    try:
        with path.open("rb") as file:
            raw = file.read(max_bytes + 1)
    except (OSError, ValueError) as problem:
        reason = getattr(problem, "strerror", None) or str(problem)
        raise error(f"cannot open the file: {reason}", where=str(path)) from problem
    if len(raw) > max_bytes:
        raise error(f"larger than the {max_bytes >> 20} MiB that are read", where=str(path))
    return parse_json_object(raw, where=str(path), error=error)


def parse_json_object(
    raw: bytes, *, where: str, error: type[MediMindError] = CheckpointError
) -> dict[str, Any]:
    """The object that JSON text holds; see `read_json_object`."""

    def refuse(constant: str) -> NoReturn:
        raise ValueError(f"{constant} is not a JSON value")

    fix = "The file is damaged or was edited by hand: fetch or write it again"
    try:
        value = json.loads(raw.decode("utf-8-sig"), parse_constant=refuse)
    except UnicodeDecodeError as problem:
        raise error(f"not UTF-8 at byte {problem.start}", where=where, fix=fix) from problem
    except json.JSONDecodeError as problem:
        where = f"{where}:{problem.lineno}"
        raise error(f"not valid JSON: {problem.msg}", where=where, fix=fix) from problem
    except RecursionError as problem:
        raise error("JSON nested too deep", where=where, fix=fix) from problem
    except ValueError as problem:
        raise error(f"not valid JSON: {problem}", where=where, fix=fix) from problem
    if not isinstance(value, dict):
        kind = type(value).__name__
        raise error(f"holds a JSON {kind}, not an object", where=where, fix=fix)
    return value

"""Folders that appear complete or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from medimind.errors import MediMindError
from medimind.formats.json_file import read_json_object

MANIFEST = "manifest.json"
_BLOCK_BYTES = 1 << 20


@contextlib.contextmanager
def atomic_folder(path: Path, *, error: type[MediMindError]) -> Iterator[Path]:
    """A new folder to write into, which takes the place of ``path`` when the block ends well.

    The files are flushed to the disk before the folder gets its name. If the block fails, nothing
    is left and what was there before stays.

    Args:
        path: Where the folder goes; a folder of that name is replaced.
        error: What is raised when the disk cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        aside = Path(tempfile.mkdtemp(prefix=f".{path.name}.", dir=path.parent))
    except (OSError, ValueError) as problem:
        raise _cannot_write(path, problem, error) from problem
    try:
        fresh = aside / "new"
        fresh.mkdir()
        yield fresh
        for file in fresh.rglob("*"):
            _flush(file)
        _flush(fresh)
        if path.exists():
            path.rename(aside / "old")
        try:
            fresh.rename(path)
        except OSError:
            if (aside / "old").exists():
                (aside / "old").rename(path)
            raise
        _flush(path.parent)
    except OSError as problem:
        raise _cannot_write(path, problem, error) from problem
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def write_manifest(folder: Path, *, notes: dict[str, str | None] | None = None) -> None:
    """Write the SHA-256 of every file in a folder to its ``manifest.json``, with some notes."""
    files = sorted(file for file in folder.iterdir() if file.is_file() and file.name != MANIFEST)
    content = {"files": {file.name: hash_file(file) for file in files}, "notes": notes or {}}
    (folder / MANIFEST).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")


def check_manifest(folder: Path, *, error: type[MediMindError]) -> dict[str, object]:
    """The notes of a folder's manifest, after every file in it was found unchanged.

    Empty where the folder has no manifest.

    Raises:
        MediMindError: As ``error``, naming the files that are missing or were changed.
    """
    path = folder / MANIFEST
    if not path.exists():
        return {}
    content = read_json_object(path, error=error, max_bytes=16 << 20)
    files, notes = content.get("files"), content.get("notes", {})
    if not isinstance(files, dict) or not isinstance(notes, dict):
        raise error("'files' is not a map of digests", where=str(path))
    changed = []
    for name, digest in files.items():
        file = folder / name
        if Path(name).name != name or not file.is_file():
            changed.append(f"{name[:80]} is missing")
        elif hash_file(file) != digest:
            changed.append(f"{name[:80]} was changed")
    if changed:
        raise error(
            f"files do not match their digests: {', '.join(changed[:8])}",
            where=str(path),
            fix="The folder is damaged or was edited: write or fetch it again",
        )
    return notes


def hash_file(file: Path) -> str:
    """SHA-256 (hex) of a file's contents."""
    digest = hashlib.sha256()
    with file.open("rb") as opened:
        while block := opened.read(_BLOCK_BYTES):
            digest.update(block)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    if os.name == "nt":
        return  # Windows flushes neither folders nor files that are open for reading
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _cannot_write(path: Path, problem: Exception, error: type[MediMindError]) -> MediMindError:
    reason = getattr(problem, "strerror", None) or str(problem)
    return error(f"cannot write the folder: {reason}", where=str(path))

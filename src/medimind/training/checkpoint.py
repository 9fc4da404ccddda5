"""Checkpoints that are whole or not there.

```
checkpoints/
├── step-000020/
│   ├── adapter/                adapter_config.json, adapter_model.safetensors (PEFT)
│   ├── optimizer.safetensors   AdamW's two averages of each parameter
│   ├── state.json              step, losses, identity of the run
│   └── manifest.json           size and SHA-256 of each file above
├── step-000040/
└── .writing-step-000060/       a save that was interrupted: swept away at the next start
```
A checkpoint is written under a hidden name; its files, their folders and the manifest reach the
disk (fsync); then one rename makes it visible. Removal goes the other way: first the rename to a
hidden name. So whatever carries a visible name was once whole, and the hashes tell whether it
still is.
"""

from __future__ import annotations

import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from medimind.formats.folder import hash_file

_log = logging.getLogger(__name__)

MANIFEST = "manifest.json"
_FORMAT = 1
_NAME = re.compile(r"step-(\d{6,})")
_HIDDEN = (".writing-", ".discarded-")


class DamagedCheckpointError(ValueError):
    """A checkpoint is not what was written; the message says how."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A verified checkpoint."""

    step: int
    folder: Path


def checkpoint_folder(root: Path, step: int) -> Path:
    """Where the checkpoint of a step lies."""
    return root / f"step-{step:06d}"


def write_checkpoint(root: Path, *, step: int, write: Callable[[Path], None]) -> Checkpoint:
    """Make the checkpoint of ``step`` appear as a whole; one of that step is replaced.

    Args:
        root: The folder of all checkpoints; made where missing.
        step: Optimizer steps taken.
        write: Writes the files into the folder it is given.
    """
    final = checkpoint_folder(root, step)
    aside = root / f".writing-{final.name}"
    root.mkdir(parents=True, exist_ok=True)
    if aside.exists():
        shutil.rmtree(aside)
    aside.mkdir()
    write(aside)
    files = sorted(path for path in aside.rglob("*") if path.is_file())
    manifest = {
        "format": _FORMAT,
        "step": step,
        "files": {
            path.relative_to(aside).as_posix(): {
                "size": path.stat().st_size,
                "sha256": hash_file(path),
            }
            for path in files
        },
    }
    (aside / MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n", encoding="utf-8")
    sync_tree(aside)
    if final.exists():
        _discard(final)
    aside.rename(final)
    sync_folder(root)
    return Checkpoint(step, final)


def verify_checkpoint(folder: Path) -> Checkpoint:
    """The checkpoint in ``folder``, every byte of it checked.

    Raises:
        DamagedCheckpointError: A file is missing, or differs from the manifest.
    """
    match = _NAME.fullmatch(folder.name)
    if not match:
        raise DamagedCheckpointError("its name is not step-<number>")
    try:
        manifest = json.loads((folder / MANIFEST).read_bytes())
        if manifest["format"] != _FORMAT:
            raise DamagedCheckpointError(f"its format is {manifest['format']!r}, not {_FORMAT}")
        if manifest["step"] != int(match[1]):
            raise DamagedCheckpointError(f"{MANIFEST} is of step {manifest['step']!r}")
        expected = {name: (e["size"], e["sha256"]) for name, e in manifest["files"].items()}
        for name, (size, sha256) in expected.items():
            path = folder / name
            if not path.is_file():
                raise DamagedCheckpointError(f"{name} is missing")
            if path.stat().st_size != size or hash_file(path) != sha256:
                raise DamagedCheckpointError(f"{name} differs from what was written")
    except OSError as error:
        raise DamagedCheckpointError(f"{MANIFEST} cannot be read: {error.strerror}") from None
    except DamagedCheckpointError:
        raise
    except (ValueError, KeyError, TypeError, AttributeError):
        raise DamagedCheckpointError(f"{MANIFEST} is not a manifest") from None
    return Checkpoint(manifest["step"], folder)


def latest_checkpoint(root: Path, *, warn: bool = True) -> Checkpoint | None:
    """The newest checkpoint that is whole; damaged ones are named in a warning and passed over."""
    for step in reversed(list_steps(root)):
        folder = checkpoint_folder(root, step)
        try:
            return verify_checkpoint(folder)
        except DamagedCheckpointError as error:
            if warn:
                _log.warning("checkpoint %s is damaged and is passed over: %s", folder, error)
    return None


def list_steps(root: Path) -> list[int]:
    """Steps of all visible checkpoints, ascending; they are not verified."""
    if not root.is_dir():
        return []
    names = (_NAME.fullmatch(path.name) for path in root.iterdir() if path.is_dir())
    return sorted(int(match[1]) for match in names if match)


def prune_checkpoints(
    root: Path, *, newest: int, keep: int, keep_steps: Collection[int] = ()
) -> None:
    """Remove all but the last ``keep`` checkpoints and those of ``keep_steps``.

    Those after step ``newest`` go too: they are damaged ones that a resume passed over.
    """
    steps = list_steps(root)
    kept = {*[step for step in steps if step <= newest][-keep:], *keep_steps}
    for step in steps:
        if step not in kept or step > newest:
            _discard(checkpoint_folder(root, step))


def sweep_leftovers(root: Path) -> None:
    """Remove what interrupted saves and removals left behind."""
    if root.is_dir():
        for path in root.iterdir():
            if path.is_dir() and path.name.startswith(_HIDDEN):
                shutil.rmtree(path)


def replace_folder(source: Path, target: Path) -> None:
    """Copy ``source`` to ``target``, which is replaced as a whole."""
    aside = target.with_name(f".writing-{target.name}")
    if aside.exists():
        shutil.rmtree(aside)
    shutil.copytree(source, aside)
    sync_tree(aside)
    if target.exists():
        _discard(target)
    aside.rename(target)
    sync_folder(target.parent)


def same_files(first: Path, second: Path) -> bool:
    """Whether two folders hold the same files, byte for byte."""

    def hashes(folder: Path) -> dict[str, str]:
        files = (path for path in folder.rglob("*") if path.is_file())
        return {path.relative_to(folder).as_posix(): hash_file(path) for path in files}

    return first.is_dir() and second.is_dir() and hashes(first) == hashes(second)


def sync_tree(folder: Path) -> None:
    """Bring all files of a folder, and the folder, to the disk."""
    for path in sorted(folder.rglob("*"), reverse=True):
        if path.is_dir():
            sync_folder(path)
        else:
            with path.open("r+b") as file:
                os.fsync(file.fileno())
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Bring a folder's entries to the disk, where the system can."""
    if os.name == "nt":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _discard(folder: Path) -> None:
    hidden = folder.with_name(f".discarded-{folder.name}")
    if hidden.exists():
        shutil.rmtree(hidden)
    folder.rename(hidden)
    shutil.rmtree(hidden)

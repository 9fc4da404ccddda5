"""The folder that an export writes: it takes the place of an earlier export and of nothing else."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Literal

from medimind.errors import ExportError
from medimind.tracking.run_folder import VERIFICATION

Written = Literal["adapter", "merged", "gguf", "push"]
"""``adapter``, ``merged`` and ``push`` replace a folder whole; ``gguf`` writes files into it."""

_ADAPTER = r"adapter_config\.json|adapter_model\.safetensors|manifest\.json"
_MERGED = (
    r"model(-\d{5}-of-\d{5})?\.safetensors|model\.safetensors\.index\.json"
    r"|(generation_|tokenizer_)?config\.json|tokenizer\.json"
)
_WHOLE = {
    "adapter": _ADAPTER,
    "merged": _MERGED,
    "push": rf"{_MERGED}|adapter|README\.md|verification\.json",
}


def check_output(folder: Path, written: Written, *, force: bool) -> None:
    """Refuse to write where something is; with ``force``, where something else is.

    Args:
        folder: To be written.
        written: What goes there.
        force: Whether an earlier export there may be replaced.

    Raises:
        ExportError: If something is there and may not be replaced.
    """
    if not folder.exists():
        return
    if not force or not folder.is_dir():
        raise ExportError(
            "the output folder is there already" if folder.is_dir() else "this is a file",
            where=str(folder),
            fix="Choose another with -o"
            + (", or replace it with --force" if folder.is_dir() else ""),
        )
    if written == "gguf":
        return
    known = re.compile(_WHOLE[written])
    earlier = _earlier_files(folder)
    for entry in sorted(folder.iterdir()):
        if not known.fullmatch(entry.name) and entry.name not in earlier:
            raise ExportError(
                f"--force replaces an earlier export only, and '{entry.name}' is none of its files",
                where=str(folder),
                fix="Choose another folder with -o",
            )


def remove_earlier(folder: Path) -> None:
    """Remove the GGUF files of an earlier export, and what tells of them."""
    for name in (*_earlier_files(folder), VERIFICATION, "Modelfile"):
        (folder / name).unlink(missing_ok=True)


def _earlier_files(folder: Path) -> set[str]:
    """Names of the GGUF files that an earlier export's report tells of."""
    try:
        rows = json.loads((folder / VERIFICATION).read_text(encoding="utf-8"))
        names = {str(row["file"]) for row in rows}
    except (OSError, ValueError, TypeError, KeyError):
        return set()
    return {name for name in names if Path(name).name == name and name.endswith(".gguf")}

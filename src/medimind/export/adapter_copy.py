"""A trained adapter copied out of its run, verified on the way."""

from __future__ import annotations

import shutil
from pathlib import Path

from medimind.errors import AdapterError, ExportError
from medimind.formats.folder import atomic_folder, check_manifest, hash_file, write_manifest
from medimind.models.adapter import CONFIG, WEIGHTS, check_adapter


def export_adapter(source: Path, folder: Path) -> list[Path]:
    """Copy an adapter folder, after its digests, shape and values were checked.

    Args:
        source: The adapter's folder.
        folder: Where the copy goes; replaced whole if it is there.

    Returns:
        The files of the copy.

    Raises:
        AdapterError: If the source is damaged.
        ExportError: If the copy differs, or the disk cannot be written.
    """
    if source.resolve() == folder.resolve():
        raise ExportError("source and copy are the same folder", where=str(folder))
    check_adapter(source)
    notes = check_manifest(source, error=AdapterError)
    with atomic_folder(folder, error=ExportError) as fresh:
        for name in (CONFIG, WEIGHTS):
            shutil.copyfile(source / name, fresh / name)
            if hash_file(fresh / name) != hash_file(source / name):
                raise ExportError("the copy differs from its source", where=str(folder / name))
        write_manifest(fresh, notes={key: str(value) for key, value in notes.items() if value})
    return sorted(folder.iterdir())

"""The GGUF files that a run wrote, found by the run's folder."""

from __future__ import annotations

import json
from pathlib import Path

from medimind.errors import CheckpointError
from medimind.models.resolve import resolve_model
from medimind.tracking.run_folder import VERIFICATION, RunFolder, is_run


def find_gguf(name: str) -> tuple[Path, Path | None]:
    """A GGUF model, and the adapter that belongs to it where ``name`` is a run folder.

    Args:
        name: A run folder, or whatever `resolve_model` finds. Of a run, an adapter with its base
            goes before the merged model, since it can be switched off, and the first base before
            others.

    Raises:
        CheckpointError: If there is no such file, or the run's is not as good as its recipe asks.
    """
    run = RunFolder(Path(name).expanduser())
    if not is_run(name):
        path = resolve_model(name).path
        if path.is_dir():
            raise CheckpointError(
                "llama.cpp runs GGUF files, and this is a folder",
                where=str(path),
                fix="Write one with: medimind export RUN --to gguf",
            )
        return path, None
    for folder in (run.export("gguf-adapter"), run.export("gguf")):
        rows = _read_report(folder / VERIFICATION)
        models = [row for row in rows if not row["file"].endswith("-adapter.gguf")]
        adapters = [row for row in rows if row["file"].endswith("-adapter.gguf")]
        if models:
            used = [models[0], *adapters[:1]]
            _refuse_bad(used, folder)
            paths = [folder / row["file"] for row in used]
            return paths[0], paths[1] if adapters else None
    raise CheckpointError(
        "the run has written no GGUF model yet",
        where=str(run.path),
        fix=f"Write one with: medimind export {run.path} --to gguf-adapter --with-base",
    )


def _read_report(path: Path) -> list[dict]:
    try:
        return json.loads(path.read_text("utf-8")) if path.is_file() else []
    except ValueError as error:
        raise CheckpointError(
            f"damaged ({error})", where=str(path), fix="Export again with --force"
        ) from None


def _refuse_bad(rows: list[dict], folder: Path) -> None:
    for row in rows:
        if row["problems"]:
            raise CheckpointError(
                f"not close enough to the trained model: {row['problems'][0]}",
                where=str(folder / row["file"]),
                fix="Export in a wider quantisation, or name this file itself",
            )

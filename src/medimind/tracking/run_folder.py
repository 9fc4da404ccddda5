"""The folder that holds everything of one run.

```
runs/starter/
├── recipe.yaml        the recipe with every setting resolved
├── provenance.json    versions, machine, seed, hashes of data and model
├── data.json          rows in = kept + rejected + duplicates, and why
├── metrics.jsonl      a row per logged step
├── checkpoints/       for --resume
├── adapter/           the result, as PEFT files
├── evaluation/        each item's prompt, output and score, per arm
├── export-gguf/       what `export` wrote, or the run itself where its recipe asks for it
└── report.html, report.json, report.md
```
"""

from __future__ import annotations

import hashlib
import json
import os
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medimind.config.load import dump_recipe, load_recipe
from medimind.config.recipe import Recipe
from medimind.config.train import FREE_SETTINGS
from medimind.errors import AdapterError, ConfigError, MediMindError
from medimind.formats.json_file import read_json_object

VERIFICATION = "verification.json"
"""Beside exported files: how close each is to the trained model."""

_MAX_JSON_BYTES = 1 << 30  # a report holds every case that it shows

# Settings that change what is learned; the others may differ between a run and its continuation.
_TRAINING_SECTIONS = ("model", "data", "prompt", "lora", "train")
_FREE_MODEL_KEYS = ("device",)


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of one run."""

    path: Path

    @property
    def recipe(self) -> Path:
        """The resolved recipe."""
        return self.path / "recipe.yaml"

    @property
    def metrics(self) -> Path:
        """One JSON row per logged step."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """What ``--resume`` goes on from."""
        return self.path / "checkpoints"

    @property
    def adapter(self) -> Path:
        """The trained adapter in PEFT format."""
        return self.path / "adapter"

    @property
    def evaluation(self) -> Path:
        """Items and scores of each arm."""
        return self.path / "evaluation"

    @property
    def report(self) -> Path:
        """The report for a browser."""
        return self.path / "report.html"

    def export(self, to: str) -> Path:
        """The files for other programs, such as ``gguf`` or ``ollama``."""
        return self.path / f"export-{to}"

    def write_json(self, name: str, value: Mapping[str, Any]) -> None:
        """Write ``name`` as a whole or not at all."""
        write_atomically(self.path / name, json.dumps(value, indent=2, ensure_ascii=False) + "\n")

    def read_json(self, name: str) -> dict[str, Any]:
        """What ``write_json`` wrote; empty where there is none.

        Raises:
            MediMindError: The file is damaged.
        """
        path = self.path / name
        if not path.is_file():
            return {}
        return read_json_object(path, error=MediMindError, max_bytes=_MAX_JSON_BYTES)


def create_run_folder(recipe: Recipe) -> RunFolder:
    """The run's folder, with the resolved recipe in it.

    Raises:
        ConfigError: The folder holds a run of a recipe that would learn something else, or cannot
            be written.
    """
    folder = RunFolder(recipe.run_folder)
    if folder.recipe.exists():
        fix = "Choose another folder with output=FOLDER, or start over with --restart"
        _refuse_other_recipe(folder, recipe, fix=fix)
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
        write_atomically(folder.recipe, dump_recipe(recipe))
    except OSError as error:
        raise ConfigError(
            f"the run folder cannot be written: {error.strerror}",
            where=str(folder.path),
            fix="Choose another with output=FOLDER",
        ) from None
    return folder


def open_run_folder(path: Path, *, overrides: Sequence[str] = ()) -> tuple[RunFolder, Recipe]:
    """An existing run and its recipe; ``overrides`` may change what teaches nothing.

    Raises:
        ConfigError: The folder holds no run.
    """
    path = path.expanduser()
    folder = RunFolder(path)
    if not folder.recipe.is_file():
        reason = "it has no recipe.yaml" if path.exists() else "it does not exist"
        raise ConfigError(
            f"this is no run folder: {reason}",
            where=str(path),
            fix="Name a folder that 'medimind run' or 'medimind train' wrote",
        )
    recipe = load_recipe(folder.recipe, overrides=overrides).model_copy(update={"output": path})
    if overrides:
        fix = "Only what teaches nothing can be changed here, such as evaluation.* and export.*"
        _refuse_other_recipe(folder, recipe, fix=fix)
    return folder, recipe


def is_run(name: str | Path) -> bool:
    """Whether this is the folder of a run."""
    return RunFolder(Path(name).expanduser()).recipe.is_file()


def trained_adapter(folder: RunFolder) -> Path:
    """The run's adapter.

    Raises:
        AdapterError: It is not trained to its end yet.
    """
    if not folder.adapter.is_dir():
        raise AdapterError(
            "the run has no adapter yet",
            where=str(folder.path),
            fix=f"Go on with it: medimind run {shlex.quote(str(folder.recipe))} --resume",
        )
    return folder.adapter


def training_settings(recipe: Recipe) -> dict[str, Any]:
    """The settings that decide what is learned, flat: ``{"lora.rank": 16, ...}``."""
    data = recipe.model_dump(mode="json", by_alias=True, include=set(_TRAINING_SECTIONS))
    for key in FREE_SETTINGS:
        data["train"].pop(key)
    for key in _FREE_MODEL_KEYS:
        data["model"].pop(key)
    return dict(_flatten(data, ""))


def fingerprint(recipe: Recipe, *, data_sha256: str, model_sha256: str) -> str:
    """A hash of all that decides what is learned: settings, cases and base weights."""
    value = [training_settings(recipe), data_sha256, model_sha256]
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def write_atomically(path: Path, text: str) -> None:
    """Write a text file so that a reader sees the old one or the new one, never a part."""
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with aside.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    except OSError:
        aside.unlink(missing_ok=True)  # a part of it must not fill the disk further
        raise


def _refuse_other_recipe(folder: RunFolder, recipe: Recipe, *, fix: str) -> None:
    _, before = open_run_folder(folder.path)
    old, new = training_settings(before), training_settings(recipe)
    changed = [
        f"{key} was {old.get(key)}, now {new.get(key)}"
        for key in sorted({*old, *new})
        if old.get(key) != new.get(key)
    ]
    if changed:
        shown = "; ".join(changed[:5]) + (f"; and {len(changed) - 5} more" if changed[5:] else "")
        raise ConfigError(
            f"the folder holds a run with other settings: {shown}",
            where=str(folder.path),
            fix=fix,
        )


def _flatten(value: Any, path: str) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        items = value.items()
    elif isinstance(value, list) and any(isinstance(item, dict) for item in value):
        items = enumerate(value)
    else:
        return [(path, value)]
    return [
        pair
        for key, item in items
        for pair in _flatten(item, f"{path}.{key}" if path else str(key))
    ]

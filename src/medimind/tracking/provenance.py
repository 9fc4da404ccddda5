"""What a run was made with: versions, machine, code, seed."""

from __future__ import annotations

import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

PACKAGES = (
    "medimind",
    "torch",
    "flash-attn-4",
    "numpy",
    "tokenizers",
    "safetensors",
    "gguf",
    "pydantic",
    "huggingface_hub",
    "datasets",
    "wandb",
    "tensorboard",
)


def collect(*, seed: int | None = None, folder: Path | None = None) -> dict[str, Any]:
    """Versions, machine, git commit and seed, as plain values for JSON.

    Names of host and user are left out: a run folder may be shared.

    Args:
        seed: The run's seed.
        folder: Where git is asked for a commit; ``None`` takes the working directory.
    """
    return {
        "versions": package_versions(),
        "python": platform.python_version(),
        "platform": platform.platform(),
        "machine": _machine(),
        "git": git_state(folder or Path.cwd()),
        "seed": seed,
    }


def package_versions() -> dict[str, str]:
    """Versions of the packages that bear on a result, where installed."""
    versions: dict[str, str] = {}
    for name in PACKAGES:
        try:
            versions[name] = version(name)
        except PackageNotFoundError:
            continue
    return versions


def git_state(folder: Path) -> dict[str, Any] | None:
    """Commit and whether files differ from it; ``None`` outside a repository or without git."""
    commit = _git(folder, "rev-parse", "HEAD")
    if not commit:
        return None
    status = _git(folder, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "changed": status != ""}


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _machine() -> dict[str, Any]:
    machine: dict[str, Any] = {"cpu": _cpu_name(), "cores": os.cpu_count()}
    try:
        import torch
    except ImportError:
        return machine
    machine["threads"] = torch.get_num_threads()
    if torch.cuda.is_available():
        card = torch.cuda.get_device_properties(0)
        machine["gpu"] = card.name
        machine["gpu_memory_gib"] = round(card.total_memory / 2**30, 2)
        machine["cuda"] = torch.version.cuda
    return machine


def _cpu_name() -> str:
    if sys.platform == "linux":
        try:
            text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
        except OSError:
            text = ""
        for line in text.splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()

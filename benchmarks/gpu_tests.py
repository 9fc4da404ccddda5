"""The tests that need a card, before anything is timed on it.

    python benchmarks/gpu_tests.py              # run them, whatever is remembered

Benchmarks on a card publish nothing unless all of these pass there. Several benchmarks in a row on
one machine run them once: that they passed is remembered in the temporary folder, for these sources
and this card only.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
WARNINGS_OF_OTHERS = ("-W", "ignore::SyntaxWarning", "-W", "ignore:invalid escape sequence")
"""Compiling somebody else's module for the first time may warn, and warnings are errors."""


def _files() -> list[str]:
    """Where tests are that need a card."""
    marked = ("mark.gpu", "device")  # the second: by the fixture of tests/kernels
    found = {
        path
        for folder, mark in zip(("tests/unit", "tests/kernels"), marked, strict=True)
        for path in (ROOT / folder).rglob("test_*.py")
        if mark in path.read_text(encoding="utf-8")
    }
    return sorted(str(path.relative_to(ROOT)) for path in found)


def card_tests() -> str | None:
    """How the tests of the gpu tier went; ``None`` when one fails: then nothing is published."""
    remembered = _remembered()
    if remembered.exists():
        return remembered.read_text(encoding="utf-8")
    return run_card_tests()


def run_card_tests(files: Sequence[str] = ()) -> str | None:
    """The same, run in any case.

    Args:
        files: Of these files alone, for a benchmark of what they test.
    """
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    command += ["--durations=8", "-rfE", "--tb=short", *WARNINGS_OF_OTHERS]
    if importlib.util.find_spec("xdist"):
        command += ["-n", str(min(14, os.cpu_count() or 1)), "--dist", "worksteal"]
        command += ["-p", "no:benchmark"]
    done = subprocess.run(
        [*command, *(files or _files())],
        cwd=ROOT,
        env=tests_environment(),
        check=False,
        capture_output=True,
        text=True,
    )
    print(done.stdout[-6000:], done.stderr[-3000:], flush=True)
    if done.returncode:
        failed = {1: "fail", 2: "were interrupted", 5: "are not there"}
        how = failed.get(done.returncode, "could not start")
        print(f"tests of the gpu tier {how}: nothing is published")
        return None
    summary = done.stdout.strip().splitlines()[-1]
    if not files:
        _remembered().write_text(summary, encoding="utf-8")
    return summary


def tests_environment() -> dict[str, str]:
    """This process' environment without the peers' packages.

    Where they are on the path, transformers imports what it finds of them, and a warning of theirs
    once kept all tests from starting.
    """
    path = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    ours = [folder for folder in path if folder and not (Path(folder) / "unsloth").exists()]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(ours)}


def _remembered() -> Path:
    """The file that says how the tests of exactly these sources went on this card."""
    digest = hashlib.sha256(f"{torch.cuda.get_device_name()} {torch.__version__}".encode())
    for folder in ("src", "tests"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            digest.update(str(path.relative_to(ROOT)).encode() + path.read_bytes())
    return Path(tempfile.gettempdir()) / f"medimind-gpu-tests-{digest.hexdigest()}.txt"


if __name__ == "__main__":
    sys.exit(0 if run_card_tests() else 1)

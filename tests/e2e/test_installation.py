"""What an installation brings: pinned versions, extras, files."""

from __future__ import annotations

import ast
import re
import tomllib
from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PROJECT = SETTINGS["project"]
PINS = {
    canonicalize_name(line.split("==")[0])
    for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()
    if not line.startswith("#")
}
SOURCES = sorted((ROOT / "src" / "medimind").rglob("*.py"))
CHECKOUT_ONLY = re.compile(
    r"\b(docs|notebooks|recipes|benchmarks|web)/[\w/-]+\.(md|py|ya?ml|ipynb)"
)
INSTALLERS = {"setuptools", "wheel", "pip"}
"""Not listed by ``pip freeze``, and needed to install rather than to run."""
TORCHS_OWN = re.compile(
    r"triton|cuda-toolkit|nvidia-(cublas|cuda|cudnn|cufft|cufile|curand|cusolver|cusparse|nccl|nv).*"
)
"""What CUDA builds of torch pin themselves."""


def brought(name: str, extras: frozenset[str], found: set[tuple[str, frozenset[str]]]) -> None:
    """Add what an installed package requires, and what that requires, to ``found``."""
    key = (canonicalize_name(name), extras)
    if key in found:
        return
    found.add(key)
    try:
        required = metadata.distribution(name).requires or []
    except metadata.PackageNotFoundError:
        return
    for requirement in map(Requirement, required):
        marker = requirement.marker
        if marker is None or any(marker.evaluate({"extra": one}) for one in {"", *extras}):
            brought(requirement.name, frozenset(requirement.extras), found)


def test_everything_that_an_installation_brings_is_pinned():
    lists = [PROJECT["dependencies"], *PROJECT["optional-dependencies"].values()]
    found: set[tuple[str, frozenset[str]]] = set()
    for requirement in (Requirement(text) for texts in lists for text in texts):
        if requirement.name != "medimind":
            brought(requirement.name, frozenset(requirement.extras), found)
    names = {name for name, _ in found}
    assert len(names) > 60
    assert {one for one in names if not TORCHS_OWN.fullmatch(one)} - PINS - INSTALLERS == set()


def test_pins_leave_torch_what_it_pins_itself():
    # torch 2.13's CUDA build wants Triton 3.7.1: beside a pin of 3.6 nothing can be installed.
    assert [name for name in sorted(PINS) if TORCHS_OWN.fullmatch(name)] == []


def shown_texts(path: Path) -> list[str]:
    """Strings of a module that may be shown; docstrings only of commands, which are their help."""
    nodes = [*ast.walk(ast.parse(path.read_text("utf-8")))]
    is_command = path.parent.name in ("cli", "forecast")
    hidden = set() if is_command else {id(one.value) for one in nodes if isinstance(one, ast.Expr)}
    constants = [one for one in nodes if isinstance(one, ast.Constant) and id(one) not in hidden]
    return [one.value for one in constants if isinstance(one.value, str)]


def test_messages_name_no_file_that_only_a_checkout_has():
    named = {
        f"{path.name}: {found.group()}"
        for path in SOURCES
        for text in shown_texts(path)
        for found in CHECKOUT_ONLY.finditer(text)
    }
    build = "web/hatch_build.py"  # both say that this is for checkouts
    assert named == {f"app_files.py: {build}", f"start.py: {build}"}


def test_all_tools_know_the_oldest_python():
    oldest = PROJECT["requires-python"].removeprefix(">=")
    assert SETTINGS["tool"]["ruff"]["target-version"] == f"py{oldest.replace('.', '')}"
    assert SETTINGS["tool"]["pyright"]["pythonVersion"] == oldest
    assert f"Programming Language :: Python :: {oldest}" in PROJECT["classifiers"]
    assert f"python3 ({oldest} or newer)" in (ROOT / "README.md").read_text("utf-8")


def test_the_page_on_installing_names_every_extra():
    page = (ROOT / "docs" / "how-to" / "install.md").read_text("utf-8")
    for extra in set(PROJECT["optional-dependencies"]) - {"dev", "browser"}:
        assert re.search(rf"^\| .*`{extra}`.* \|", page, re.MULTILINE), extra


def test_pages_name_extras_that_there_are():
    extras = set(PROJECT["optional-dependencies"])
    pages = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md")]
    mentioned = re.compile(r"medimind\[([\w,-]+)\]|'\.\[([\w,-]+)\]'")
    texts = [page.read_text("utf-8").replace('"', "'") for page in pages]
    named = {
        extra
        for text in texts
        for found in mentioned.findall(text)
        for extra in "".join(found).split(",")
    }
    assert len(named) > 4
    assert named <= extras

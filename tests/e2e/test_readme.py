"""What the README says is true: its tree, its commands, its links."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
from click import Context
from click.testing import CliRunner

from medimind.cli.main import cli
from medimind.config.catalogue import find_recipe
from medimind.config.load import load_recipe

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path, language: str) -> list[str]:
    parts = re.split(r"^```(.*)$", page.read_text("utf-8"), flags=re.MULTILINE)
    return [parts[i + 1] for i in range(1, len(parts) - 1, 4) if parts[i] == language]


def tree_paths() -> list[str]:
    block = next(block for block in blocks(ROOT / "README.md", "") if "pipeline.py" in block)
    paths: list[str] = []
    parent = ""
    for line in block.strip("\n").splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            parent = name if name.endswith("/") else ""
            paths.append(name)
        else:
            paths.append(parent + name)
    return paths


@pytest.mark.parametrize("path", tree_paths())
def test_the_tree_is_true(path):
    assert (ROOT / path).exists()


def test_the_tree_names_every_package():
    packages = {p.parent.name for p in (ROOT / "src/medimind").glob("*/__init__.py")}
    assert {f"src/medimind/{name}/" for name in packages} <= set(tree_paths())


def commands() -> list[str]:
    found: list[str] = []
    for page in PAGES:
        for block in blocks(page, "sh"):
            # A backslash at a line's end goes on with the next.
            lines = re.sub(r"\\\n\s*", "", block).splitlines()
            found += [line for line in lines if line.startswith("medimind ")]
    for cell in notebook_cells():
        lines = [line.removeprefix("!") for line in cell.splitlines()]
        found += [re.sub(r"\{\w+\}", "", one) for one in lines if one.startswith("medimind ")]
    return sorted(set(found))


def notebook_cells() -> list[str]:
    cells: list[str] = []
    for path in sorted((ROOT / "notebooks").glob("*.ipynb")):
        for cell in json.loads(path.read_text("utf-8"))["cells"]:
            if cell["cell_type"] == "code":
                assert cell["outputs"] == [], f"{path.name}: commit notebooks without outputs"
                cells.append("".join(cell["source"]))
    return cells


@pytest.mark.parametrize("cell", notebook_cells())
def test_cells_of_notebooks_are_python(cell):
    lines = [line for line in cell.splitlines() if not line.startswith(("!", "%"))]
    compile("\n".join(lines), "cell", "exec")


@pytest.mark.parametrize("line", commands())
def test_every_command_parses(line):
    words = shlex.split(line, comments=True)[1:]
    for word in words:
        if word in ("starter", "medical-o1", "kaggle-t4", "deepseek-r1-distill-llama-8b"):
            overrides = [w for w in words if "=" in w and not w.startswith("-")]
            load_recipe(find_recipe(word), overrides=overrides)
    command = cli
    context = None
    while words and hasattr(command, "get_command"):
        context = Context(command, parent=context)
        name = words.pop(0)
        command = command.get_command(context, name)
        assert command is not None, name
    known = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("-")} <= known


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)#\s]+)\)", page.read_text("utf-8")):
        if not target.startswith("http"):
            assert (page.parent / target).exists(), target


def headings(page: Path) -> set[str]:
    """What the headings of a page are called in links."""
    lines = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", line.lower()).replace(" ", "-") for line in lines}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_into_pages_lead_to_a_heading(page):
    for target, heading in re.findall(r"\]\(([^)#\s]*)#([^)\s]+)\)", page.read_text("utf-8")):
        if not target.startswith("http"):
            there = page.parent / target if target else page
            assert heading in headings(there), f"{target}#{heading}"


PROGRAMS = [
    path.as_posix()
    for folder, pattern in (
        ("src", "**/*.py"),
        ("tests", "**/*.py"),
        ("benchmarks", "*.py"),
        ("web", "*.py"),
    )
    for path in (ROOT / folder).glob(pattern)
]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_programs_and_tests_that_pages_name_are_there(page):
    for name in re.findall(r"[\w/.-]+\.py\b", page.read_text("utf-8")):
        assert any(program.endswith(f"/{name.lstrip('./')}") for program in PROGRAMS), name


def test_the_readme_leads_to_every_how_to_page():
    readme = (ROOT / "README.md").read_text("utf-8")
    for page in (ROOT / "docs" / "how-to").glob("*.md"):
        assert f"(docs/how-to/{page.name})" in readme


def test_make_targets_exist():
    makefile = (ROOT / "Makefile").read_text("utf-8")
    readme = (ROOT / "README.md").read_text("utf-8")
    for target in re.findall(r"^make (\w+)", readme, re.MULTILINE):
        assert f"\n{target}:" in makefile


def test_help_runs_through_click():
    assert CliRunner().invoke(cli, ["--help"]).exit_code == 0

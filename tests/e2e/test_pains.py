"""Each pain of docs/pains.md names tests that exist; and what is true of every module."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "pains.md").read_text("utf-8")
NAMED = re.findall(r"`([\w/]+\.py)::(\w+)`", PAGE)


def test_every_pain_has_a_test():
    rows = re.findall(r"^\| (\d+) \|.*$", PAGE, re.MULTILINE)
    assert [int(row) for row in rows] == list(range(1, 19))
    for line in PAGE.splitlines():
        if re.match(r"\| \d+ \|", line):
            assert "::" in line, line


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_the_test_is_there(file, name):
    text = (ROOT / "tests" / file).read_text("utf-8")
    assert re.search(rf"^def test_{name}\(", text, re.MULTILINE), f"{file} has no test_{name}"


PATCHED_BY_PEERS = {"transformers", "peft", "trl", "accelerate"}


def foreign_names(tree: ast.AST) -> dict[str, str]:
    """What a module imports from others than us: name in the module -> where it is from."""
    names: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {(one.asname or one.name).split(".")[0]: one.name for one in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {one.asname or one.name: node.module or "" for one in node.names}
    return {name: source for name, source in names.items() if not source.startswith("medimind")}


def patches(tree: ast.AST) -> Iterator[str]:
    """Assignments to a part of something that was imported, such as ``torch.nn.Linear.x = y``."""
    foreign = foreign_names(tree)
    for node in ast.walk(tree):
        targets = node.targets if isinstance(node, ast.Assign) else []
        for target in targets:
            root: ast.AST = target
            while isinstance(root, ast.Attribute):
                root = root.value
            if root is not target and isinstance(root, ast.Name) and root.id in foreign:
                yield ast.unparse(node)
        called = node.func if isinstance(node, ast.Call) else None
        if isinstance(called, ast.Name) and called.id == "setattr":
            yield ast.unparse(node)


def test_no_module_imports_or_patches_what_peers_patch():
    modules = sorted((ROOT / "src").rglob("*.py"))
    assert len(modules) > 300
    for path in modules:
        tree = ast.parse(path.read_text("utf-8"))
        sources = {source.split(".")[0] for source in foreign_names(tree).values()}
        assert not sources & PATCHED_BY_PEERS, path
        assert list(patches(tree)) == [], path


def test_a_patch_would_be_found():
    code = (
        "import torch.nn as nn\nfrom peft import LoraModel\nnn.Linear.forward = LoraModel.forward"
    )
    tree = ast.parse(code)
    assert foreign_names(tree) == {"nn": "torch.nn", "LoraModel": "peft"}
    assert list(patches(tree)) == ["nn.Linear.forward = LoraModel.forward"]

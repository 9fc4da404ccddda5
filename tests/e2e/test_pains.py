"""Each pain of docs/pains.md names tests that exist."""

from __future__ import annotations

import re
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

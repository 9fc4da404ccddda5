"""Before and after side by side."""

from __future__ import annotations

import io

from rich.console import Console

from medimind.cli import ask
from medimind.config.prompt import PromptConfig
from medimind.prompts.live import LiveOutput
from medimind.prompts.templates import get_template

ENDS = {"base": "stop", "tuned": "length"}


def answer(arm):
    yield "<think>\nWhy?\n</think>\n\n"
    yield f"said by {arm}"
    return ENDS[arm]


def test_both_arms_stand_beside_each_other_and_the_cut_off_one_says_so(monkeypatch):
    screen = Console(file=io.StringIO(), force_terminal=True, width=120, record=True)
    monkeypatch.setattr(ask, "console", screen)
    template = get_template(PromptConfig(template="r1"))
    asked = ask._Asked(answer, 4, lambda: LiveOutput(is_open=True), template, has_adapter=True)
    ask._show_side_by_side(["base", "tuned"], asked)
    last = screen.export_text().split("before (base model)")[-1]
    assert "after (tuned)" in last
    (line,) = [line for line in last.splitlines() if "said by" in line]
    assert line.index("said by base") < line.index("said by tuned")
    assert last.count("cut off by --max-new-tokens") == 1
    assert last.index("cut off") > last.index("said by tuned")

"""The one parser reads any output and never takes an answer out of the thoughts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medimind.config import PromptConfig
from medimind.prompts.parse import ParsedOutput, parse_output
from medimind.prompts.templates import Template, get_template

R1 = get_template(PromptConfig(template="r1"))
HUATUO = get_template(PromptConfig(template="huatuo"))
BARE = get_template(
    PromptConfig.model_validate(
        {
            "template": "custom",
            "custom": {"prompt": "{question}", "reasoning_open": "", "reasoning_close": ""},
        }
    )
)
OWN = get_template(
    PromptConfig.model_validate(
        {
            "template": "custom",
            "custom": {
                "prompt": "{question}",
                "reasoning_open": "[why]",
                "reasoning_close": "[/why]",
                "open_in_prompt": False,
            },
        }
    )
)


@pytest.mark.parametrize(
    ("text", "template", "expected"),
    [
        ("r\n</think>\n\na", R1, ParsedOutput("r", "a", True, True, 0)),
        ("<think>\nr\n</think>\n\na", R1, ParsedOutput("r", "a", False, True, 1)),
        ("r, and r", R1, ParsedOutput("r, and r", "", False, False, 0)),
        ("", R1, ParsedOutput("", "", False, False, 0)),
        ("\n</think>\n\na", R1, ParsedOutput("", "a", False, True, 0)),
        ("r</think>", R1, ParsedOutput("r", "", False, True, 0)),
        ("r</think>a</think>b", R1, ParsedOutput("ra", "b", False, True, 0)),
        ("r</think>a<think>s", R1, ParsedOutput("ras", "", False, False, 1)),
        ("r</think>a<think>s</think>b", R1, ParsedOutput("ras", "b", False, True, 1)),
        ("<think>r</think>a", None, ParsedOutput("r", "a", True, True, 1)),
        ("r</think>a", None, ParsedOutput("r", "a", True, True, 0)),
        ("x<think>r</think>a", None, ParsedOutput("xr", "a", False, True, 1)),
        ("<think><think>r</think>a", None, ParsedOutput("r", "a", False, True, 2)),
        ("<think>r", None, ParsedOutput("r", "", False, False, 1)),
        ("just a", None, ParsedOutput("", "just a", False, True, 0)),
        ("## Thinking\n\nr\n\n## Final Response\n\na", None, ParsedOutput("r", "a", True, True, 1)),
        (
            "## Thinking\n\nr\n\n## Final Response\n\na",
            HUATUO,
            ParsedOutput("r", "a", True, True, 1),
        ),
        (
            "### thinking:\nr\n### FINAL  response:\na",
            HUATUO,
            ParsedOutput("r", "a", True, True, 1),
        ),
        ("r\n## Final Response\na", HUATUO, ParsedOutput("r", "a", False, True, 0)),
        (
            "## Thinking\nr, Final Response",
            HUATUO,
            ParsedOutput("r, Final Response", "", False, False, 1),
        ),
        ("just a", HUATUO, ParsedOutput("", "just a", False, True, 0)),
        ("[why]r[/why]a", OWN, ParsedOutput("r", "a", True, True, 1)),
        ("r[/why]a", OWN, ParsedOutput("r", "a", False, True, 0)),
        (" a ", BARE, ParsedOutput("", "a", True, True, 0)),
        ("", BARE, ParsedOutput("", "", False, True, 0)),
    ],
)
def test_outputs_of_every_form(
    text: str, template: Template | None, expected: ParsedOutput
) -> None:
    assert parse_output(text, template=template) == expected


def test_a_native_prompt_that_opened_the_thinking_is_told_apart() -> None:
    assert parse_output("r, and r", open_in_prompt=True).answer == ""
    assert parse_output("r</think>a", open_in_prompt=True).well_formed
    assert parse_output("r, and r", open_in_prompt=False).answer == "r, and r"
    assert not parse_output("r</think>a", open_in_prompt=False).well_formed
    headings = "## Thinking\nr\n## Final Response\na"
    assert parse_output(headings, open_in_prompt=True).answer == ""


PART = st.sampled_from(
    ["<think>", "</think>", "r", " ", "\n", "## Thinking", "\n## Final Response\n"]
)


@given(parts=st.lists(PART, max_size=12), template=st.sampled_from([None, R1, HUATUO, OWN, BARE]))
@settings(deadline=None, max_examples=400)
def test_whatever_comes_the_parts_fit_together(parts: list[str], template: Template | None) -> None:
    text = "".join(parts)
    parsed = parse_output(text, template=template)
    assert parsed.closed or not parsed.answer
    assert not parsed.well_formed or (parsed.closed and parsed.answer)
    assert parsed.answer in text
    assert parsed.answer == parsed.answer.strip()
    assert parse_output(text, template=template) == parsed


def test_an_answer_is_what_follows_the_last_closing_tag_in_real_outputs(shared: Path) -> None:
    path = shared / "data/generations/r1_distill_llama_8b_open_dx.json"
    outputs = json.loads(path.read_text(encoding="utf-8"))[:50]
    for row in outputs:
        thought = " ".join(sentence["s"] for sentence in row["sentences"])
        parsed = parse_output(f"{thought}\n</think>\n\n{row['pred_dx']}", template=R1)
        assert parsed.answer == str(row["pred_dx"]).strip()
        assert parsed.well_formed

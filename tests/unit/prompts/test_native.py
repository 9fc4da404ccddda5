"""A checkpoint's own chat template cannot break or cheat a run."""

from __future__ import annotations

from pathlib import Path

import pytest
from small_tokenizers import small_backend, write_folder

from medimind.cases.case import Case, Turn
from medimind.errors import PromptError
from medimind.prompts.render import render_native
from medimind.prompts.tokenizer import Tokenizer, load_tokenizer

CASE = Case(id="c:1", question="Why?", response="")


def with_template(folder: Path, chat_template: str | None) -> Tokenizer:
    config = {"bos_token": "<bos>", "eos_token": "<eos>", "chat_template": chat_template}
    return load_tokenizer(write_folder(folder, small_backend(), **config))


def native(folder: Path, chat_template: str | None, case: Case = CASE) -> str:
    tokenizer = with_template(folder, chat_template)
    return tokenizer.decode(render_native(case, tokenizer=tokenizer))


def test_blocks_dates_and_turns_work_as_in_transformers(tmp_path: Path) -> None:
    source = (
        "{{ bos_token }}{{ strftime_now('%Y')[:2] }}\n"
        "{% for m in messages %}\n"
        "  {% if m.role == 'system' %}{% continue %}{% endif %}\n"
        "{{ m['role'] }}={{ m['content'] | trim }}{{ eos_token }}\n"
        "{% endfor %}\n"
        "{% if add_generation_prompt %}assistant={% endif %}"
    )
    history = (Turn("user", "A?"), Turn("assistant", "<think>x</think>B."))
    case = Case(id="c", question="Why?", response="", system="S", history=history)
    expected = "<bos>20\nuser=A?<eos>\nassistant=B.<eos>\nuser=Why?<eos>\nassistant="
    assert native(tmp_path, source, case).replace("  ", "") == expected


def test_bos_is_never_doubled(tmp_path: Path) -> None:
    assert native(tmp_path, "<bos><bos>{{ messages[0].content }}") == "<bos>Why?"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (None, "no chat template of its own"),
        ("{% if %}", "chat template fails"),
        ("{{ raise_exception('roles must alternate') }}", "roles must alternate"),
        ("{{ messages[9].content + 1 }}", "chat template fails"),
        ("{{ messages[0].content + 1 }}", "chat template fails"),
        ("{{ ''.__class__.__mro__ }}{{ messages[0].content }}", "chat template fails"),
        ("{% for i in range(10**9) %}{% endfor %}", "chat template fails"),
        ("{{ 1 / 0 }}", "chat template fails"),
        ("a constant", "drops or changes the question"),
    ],
)
def test_a_template_that_fails_is_an_error_of_ours(
    source: str | None, message: str, tmp_path: Path
) -> None:
    with pytest.raises(PromptError, match=message) as caught:
        native(tmp_path, source)
    assert caught.value.fix == "Set evaluation.native_template: false"
    assert "Tokenizer(" not in str(caught.value)  # the file is named, not our object

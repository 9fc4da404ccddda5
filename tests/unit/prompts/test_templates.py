"""Each template renders exactly the text its checkpoints know."""

from __future__ import annotations

import logging

import pytest

from medimind.cases.case import Case, Turn
from medimind.config import PromptConfig
from medimind.errors import PromptError
from medimind.prompts.prompt import Prompt
from medimind.prompts.render import end_id, render_inference, render_training
from medimind.prompts.templates import Template, get_template
from medimind.prompts.tokenizer import Tokenizer

CASE = Case(id="c:1", question="Why?", reasoning="Because of A.", response="It is A.")
SMOL = "You are a helpful AI assistant named SmolLM, trained by Hugging Face"


def texts(prompt: Prompt, tokenizer: Tokenizer) -> tuple[str, str]:
    ids = prompt.token_ids_S.tolist()
    return tokenizer.decode(ids[: prompt.prompt_length]), tokenizer.decode(
        ids[prompt.prompt_length :]
    )


def render(name: str, tokenizer: Tokenizer, case: Case = CASE, **config: object) -> tuple[str, str]:
    template = get_template(PromptConfig.model_validate({"template": name, **config}))
    return texts(render_training(case, template=template, tokenizer=tokenizer), tokenizer)


def test_r1(r1_llama: Tokenizer) -> None:
    prompt, output = render("r1", r1_llama)
    assert prompt == "<｜begin▁of▁sentence｜><｜User｜>Why?<｜Assistant｜><think>\n"
    assert output == "Because of A.\n</think>\n\nIt is A.<｜end▁of▁sentence｜>"
    prompt, _ = render("r1", r1_llama, system="Be brief.")
    assert prompt.startswith("<｜begin▁of▁sentence｜>Be brief.<｜User｜>Why?")


def test_r1_ids_are_the_control_tokens(r1_llama: Tokenizer) -> None:
    template = get_template(PromptConfig(template="r1"))
    prompt = render_training(CASE, template=template, tokenizer=r1_llama)
    ids = prompt.token_ids_S.tolist()
    assert ids[:2] == [128000, 128011]
    assert ids[prompt.prompt_length - 3 : prompt.prompt_length] == [128012, 128013, 198]
    assert ids.count(128014) == 1
    assert ids[-1] == 128001


def test_r1_without_its_tokens_is_plain_text(smollm2: Tokenizer) -> None:
    prompt, output = render("r1", smollm2)
    assert prompt == "<｜User｜>Why?<｜Assistant｜><think>\n"
    assert output == "Because of A.\n</think>\n\nIt is A.<|im_end|>"


def test_chatml_is_smollm2s_own_form(smollm2: Tokenizer) -> None:
    prompt, output = render("chatml", smollm2)
    expected = f"<|im_start|>system\n{SMOL}<|im_end|>\n<|im_start|>user\nWhy?<|im_end|>\n"
    assert prompt == expected + "<|im_start|>assistant\n<think>\n"
    assert output == "Because of A.\n</think>\n\nIt is A.<|im_end|>"


def test_the_recipes_system_text_wins_over_the_cases_over_the_checkpoints(
    smollm2: Tokenizer,
) -> None:
    with_system = Case(id="c", question="Why?", response="A.", system=" Act as a nurse. ")
    assert "system\nAct as a nurse.<|im_end|>" in render("chatml", smollm2, with_system)[0]
    assert (
        "system\nBe brief.<|im_end|>"
        in render("chatml", smollm2, with_system, system="Be brief.")[0]
    )
    assert "system" not in render("chatml", smollm2, with_system, system="")[0]


def test_llama3_ends_the_turn_with_its_own_token(r1_llama: Tokenizer) -> None:
    prompt, output = render("llama3", r1_llama)
    assert prompt.removeprefix("<｜begin▁of▁sentence｜>") == (
        "<|start_header_id|>user<|end_header_id|>\n\nWhy?<|eot_id|>"
        "<|start_header_id|>assistant<|end_header_id|>\n\n<think>\n"
    )
    assert output.endswith("It is A.<|eot_id|>")
    assert "<|eot_id|>" in get_template(PromptConfig(template="llama3")).stop


def test_huatuo_headings_in_the_checkpoints_own_turns(
    smollm2: Tokenizer, r1_llama: Tokenizer
) -> None:
    prompt, output = render("huatuo", smollm2)
    assert prompt.endswith("<|im_start|>assistant\n")
    expected = "## Thinking\n\nBecause of A.\n\n## Final Response\n\nIt is A."
    assert output == expected + "<|im_end|>"
    assert render("huatuo", r1_llama)[1] == expected + "<|eot_id|>"


def test_instruction_opens_the_response_with_think(r1_llama: Tokenizer) -> None:
    prompt, output = render("instruction", r1_llama)
    assert prompt.startswith("<｜begin▁of▁sentence｜>You will find a task")
    parts = [prompt.index(t) for t in ("### Instruction:\nYou are", "### Question:\nWhy?\n\n###")]
    assert parts == sorted(parts)
    assert prompt.endswith("### Response:\n<think>\n")
    assert output == "Because of A.\n</think>\nIt is A.<｜end▁of▁sentence｜>"


def test_plain(small: Tokenizer) -> None:
    assert render("plain", small)[0] == "<bos>Question: Why?\n\nAnswer:\n<think>\n"
    with_system = render("plain", small, system="Be brief.")[0]
    assert with_system == "<bos>Be brief.\n\nQuestion: Why?\n\nAnswer:\n<think>\n"


def custom(prompt: str, **pieces: object) -> dict[str, object]:
    return {"custom": {"prompt": prompt, **pieces}}


def test_custom_takes_braces_literally(small: Tokenizer) -> None:
    pieces = custom('{"q": "{question}", "s": "{system}"} {0} {', reasoning_open="[[")
    pieces["custom"]["reasoning_close"] = "]]"  # type: ignore[index]
    prompt, output = render("custom", small, system="S {question}", **pieces)
    assert prompt == '<bos>{"q": "Why?", "s": "S {question}"} {0} {[['
    assert output == "Because of A.]]It is A.<eos>"


def test_custom_may_open_the_reasoning_in_the_output(small: Tokenizer) -> None:
    pieces = custom("{question}\n", open_in_prompt=False, stop=("###",))
    prompt, output = render("custom", small, **pieces)
    assert prompt == "<bos>Why?\n"
    assert output == "<think>\nBecause of A.\n</think>\n\nIt is A.<eos>"
    config = PromptConfig.model_validate({"template": "custom", **pieces})
    assert get_template(config).stop == ("###",)


def test_custom_that_begins_with_bos_has_it_once(small: Tokenizer) -> None:
    assert render("custom", small, **custom("<bos>{question}"))[0].count("<bos>") == 1


def test_custom_without_markers_teaches_responses_and_says_so(
    small: Tokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    pieces = custom("{question}\n", reasoning_open="", reasoning_close="")
    with caplog.at_level(logging.WARNING):
        assert render("custom", small, **pieces) == ("<bos>Why?\n", "It is A.<eos>")
    assert "reasoning is left out" in caplog.text


def test_custom_with_one_marker_alone_is_refused() -> None:
    pieces = custom("{question}", reasoning_close="")
    with pytest.raises(PromptError, match="both be given or both be empty"):
        get_template(PromptConfig.model_validate({"template": "custom", **pieces}))


HISTORY = (
    Turn("user", "Is it A?"),
    Turn("assistant", "<think>\nhm, secret\n</think>\n\nPerhaps."),
)


@pytest.mark.parametrize(
    ("name", "fixture", "expected"),
    [
        (
            "r1",
            "r1_llama",
            "<｜User｜>Is it A?<｜Assistant｜>Perhaps.<｜end▁of▁sentence｜><｜User｜>Why?",
        ),
        (
            "chatml",
            "smollm2",
            "Is it A?<|im_end|>\n<|im_start|>assistant\nPerhaps.<|im_end|>\n<|im_start|>user\n",
        ),
        ("plain", "small", "Question: User: Is it A?\n\nAssistant: Perhaps.\n\nUser: Why?\n\nA"),
        ("instruction", "small", "### Question:\nUser: Is it A?\n\nAssistant: Perhaps.\n\nUser:"),
    ],
)
def test_earlier_turns_are_rendered_without_their_thoughts(
    name: str, fixture: str, expected: str, request: pytest.FixtureRequest
) -> None:
    case = Case(id="c", question="Why?", response="A.", history=HISTORY)
    prompt, _ = render(name, request.getfixturevalue(fixture), case)
    assert expected in prompt
    assert "secret" not in prompt


@pytest.mark.parametrize("name", ["r1", "instruction", "chatml", "llama3", "huatuo", "plain"])
def test_a_case_without_reasoning_gets_an_empty_one(name: str, small_thinking: Tokenizer) -> None:
    template = get_template(PromptConfig.model_validate({"template": name}))
    bare = Case(id="c", question="Why?", response="It is A.")
    prompt = render_training(bare, template=template, tokenizer=small_thinking)
    thinking = render_training(CASE, template=template, tokenizer=small_thinking)
    start = prompt.prompt_length
    assert prompt.token_ids_S[:start].tolist() == thinking.token_ids_S[:start].tolist()
    expected = ("" if template.open_in_prompt else template.reasoning_open) + (
        template.reasoning_close + "It is A."
    )
    assert texts(prompt, small_thinking)[1].startswith(expected)
    assert prompt.num_reasoning_targets == 0
    assert thinking.num_reasoning_targets > 0


def test_a_tokenizer_without_eos_is_refused(r1_llama: Tokenizer, small_thinking: Tokenizer) -> None:
    class NoEos:
        eos_id = None
        where = "a folder"

        def is_control(self, text: str) -> bool:
            return False

    template = get_template(PromptConfig(template="r1"))
    with pytest.raises(PromptError, match="never learn to stop"):
        end_id(template, NoEos())  # type: ignore[arg-type]
    assert end_id(template, r1_llama) == 128001
    assert end_id(template, small_thinking) == small_thinking.eos_id


def test_every_template_renders_the_same_prompt_for_inference(small: Tokenizer) -> None:
    for name in ("r1", "instruction", "chatml", "llama3", "huatuo", "plain"):
        template: Template = get_template(PromptConfig.model_validate({"template": name}))
        prompt = render_training(CASE, template=template, tokenizer=small)
        ask = Case(id="ask", question="Why?", response="")
        ids = render_inference(ask, template=template, tokenizer=small)
        assert ids == prompt.token_ids_S[: prompt.prompt_length].tolist()

"""What users of other tools suffer from cannot happen here (numbers: the project's list of pains).

3 reasoning dropped, ``<think>`` doubled or missing; 4 the model never stops; 5 all labels masked;
13 rows cut silently; 15 network needed, tokenised again and again, BOS doubled.
"""

from __future__ import annotations

import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from small_tokenizers import small_backend, write_folder
from transformers import PreTrainedTokenizerFast

from medimind.cases.case import Case
from medimind.config import PromptConfig
from medimind.prompts.render import render_cases, render_inference, render_training
from medimind.prompts.templates import Template, get_template
from medimind.prompts.tokenizer import Tokenizer, load_tokenizer

NAMES = ["r1", "instruction", "chatml", "llama3", "huatuo", "plain"]
R1_TOKENIZERS = ["r1_llama", "r1_qwen"]
CASE = Case(id="c", question="Why?", reasoning="Secret thoughts.", response="It is A.")


def template_of(name: str) -> Template:
    return get_template(PromptConfig.model_validate({"template": name}))


@pytest.mark.parametrize("fixture", R1_TOKENIZERS)
def test_pain_3_the_chat_template_drops_the_reasoning_and_we_keep_it(
    fixture: str, request: pytest.FixtureRequest
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(fixture)
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer._backend,
        chat_template=tokenizer.chat_template,
        bos_token=tokenizer.bos,
    )
    thought = "<think>\nSecret thoughts.\n</think>"
    messages = [
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": thought + "\n\nIt is A."},
    ]
    dropped = theirs.apply_chat_template(messages, tokenize=False)
    assert "Secret thoughts." not in dropped
    prompt = render_training(CASE, template=template_of("r1"), tokenizer=tokenizer)
    kept = dropped.replace("<｜Assistant｜>", "<｜Assistant｜>" + thought)
    assert tokenizer.decode(prompt.token_ids_S) == kept
    assert prompt.num_reasoning_targets > 3


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fixture", [*R1_TOKENIZERS, "smollm2"])
def test_pain_3_thinking_opens_and_closes_exactly_once(
    name: str, fixture: str, request: pytest.FixtureRequest
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(fixture)
    template = template_of(name)
    for reasoning in ("Thoughts.", "<think>\nThoughts.\n</think>", ""):
        case = Case(id="c", question="Why?", reasoning=reasoning, response="A.")
        prompt = render_training(case, template=template, tokenizer=tokenizer)
        text = tokenizer.decode(prompt.token_ids_S)
        if name != "huatuo":
            assert text.count(template.reasoning_open.strip()) == 1
            assert text.count(template.reasoning_close.strip()) == 1
            assert tokenizer.decode(prompt.token_ids_S[: prompt.prompt_length]).endswith(
                "<think>\n"
            )


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fixture", [*R1_TOKENIZERS, "smollm2", "small"])
def test_pain_4_eos_is_a_target_though_pad_equals_it(
    name: str, fixture: str, request: pytest.FixtureRequest
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(fixture)
    assert tokenizer.pad_id == tokenizer.eos_id
    prompt = render_training(CASE, template=template_of(name), tokenizer=tokenizer)
    assert prompt.is_target_S[-1]
    last = int(prompt.token_ids_S[-1])
    stops = [tokenizer.token_id(stop) for stop in template_of(name).stop]
    assert last == tokenizer.eos_id or last in stops
    assert (prompt.token_ids_S == last)[prompt.prompt_length :].sum() == 1


def test_pain_4_a_missing_pad_token_changes_nothing(tmp_path: Path, small: Tokenizer) -> None:
    config = {"bos_token": "<bos>", "eos_token": "<eos>", "add_bos_token": True}
    padless = load_tokenizer(write_folder(tmp_path, small_backend(), **config))
    assert padless.pad_id is None
    rendered = [
        render_training(CASE, template=template_of("plain"), tokenizer=tokenizer)
        for tokenizer in (small, padless)
    ]
    assert rendered[0].token_ids_S.tolist() == rendered[1].token_ids_S.tolist()
    assert rendered[0].is_target_S.tolist() == rendered[1].is_target_S.tolist()


@pytest.mark.parametrize("name", NAMES)
def test_pain_5_every_real_row_has_reasoning_and_response_targets(
    name: str, r1_llama: Tokenizer, real_cases: list[Case]
) -> None:
    rendered = render_cases(real_cases, template=template_of(name), tokenizer=r1_llama)
    assert len(rendered.prompts) == len(real_cases)
    for case, prompt in zip(real_cases, rendered.prompts):
        assert prompt.num_reasoning_targets > 10
        assert prompt.num_response_targets > 5
        taught = r1_llama.decode(prompt.token_ids_S[prompt.is_target_S])
        assert case.reasoning.strip() in taught
        assert case.response.strip() in taught
        assert case.question.strip() not in taught


def test_pain_13_nothing_is_cut_at_a_default_length(r1_llama: Tokenizer, tmp_path: Path) -> None:
    backend = small_backend()
    backend.enable_truncation(512)
    folder = write_folder(tmp_path, backend, eos_token="<eos>", model_max_length=512)
    long = Case(id="c", question="Why?", reasoning="and so on " * 9000, response="The end.")
    for tokenizer in (r1_llama, load_tokenizer(folder)):
        prompt = render_training(long, template=template_of("r1"), tokenizer=tokenizer)
        assert len(prompt.token_ids_S) > 16384  # the most that R1's files name
        assert tokenizer.decode(prompt.token_ids_S, skip_special=True).endswith("The end.")


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fixture", [*R1_TOKENIZERS, "small"])
def test_pain_15_bos_is_there_exactly_once(
    name: str, fixture: str, request: pytest.FixtureRequest
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(fixture)
    assert tokenizer.adds_bos
    prompt = render_training(CASE, template=template_of(name), tokenizer=tokenizer)
    assert prompt.token_ids_S[0] == tokenizer.bos_id
    assert np.count_nonzero(prompt.token_ids_S == tokenizer.bos_id) == 1


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fixture", [*R1_TOKENIZERS, "smollm2"])
def test_pain_15_inference_starts_from_a_prefix_of_the_training_ids(
    name: str, fixture: str, request: pytest.FixtureRequest, real_cases: list[Case]
) -> None:
    tokenizer: Tokenizer = request.getfixturevalue(fixture)
    template = template_of(name)
    for case in real_cases[::20]:
        prompt = render_training(case, template=template, tokenizer=tokenizer)
        ask = Case(id="ask", question=case.question, response="")
        ids = render_inference(ask, template=template, tokenizer=tokenizer)
        assert prompt.token_ids_S[: len(ids)].tolist() == ids
        assert prompt.prompt_length == len(ids)


def test_pain_15_rows_are_tokenised_once_and_together(
    smollm2: Tokenizer, real_cases: list[Case], monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[str] = []
    plain = Tokenizer.encode_plain

    def counting(self: Tokenizer, texts: list[str], **options: bool) -> object:
        encoded.extend(texts)
        return plain(self, texts, **options)

    monkeypatch.setattr(Tokenizer, "encode_plain", counting)
    render_cases(real_cases, template=template_of("chatml"), tokenizer=smollm2)
    questions = [text for text in encoded if real_cases[0].question in text]
    thoughts = [text for text in encoded if real_cases[0].reasoning in text]
    assert len(questions) == len(thoughts) == 1


def test_pain_15_no_network_is_needed(smollm2_gguf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    tokenizer = load_tokenizer(smollm2_gguf)
    assert render_training(CASE, template=template_of("chatml"), tokenizer=tokenizer).prompt_length


def test_prompts_are_made_without_torch_or_transformers() -> None:
    code = (
        "import sys, medimind.prompts.render, medimind.packing.pack\n"
        "print([m for m in ('torch', 'transformers', 'huggingface_hub') if m in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"

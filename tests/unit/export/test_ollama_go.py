"""Modelfile templates rendered by Go's own template engine, which Ollama uses, give our prompts."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from medimind.cases.starter import load_starter
from medimind.config.prompt import PromptConfig, UserTemplateConfig
from medimind.export.ollama import go_template
from medimind.prompts.chat import render_chat
from medimind.prompts.templates import get_template
from medimind.prompts.tokenizer import load_tokenizer

CUSTOM = UserTemplateConfig(
    prompt='{system}\n\n"Q": {question} {{\n\\n', reasoning_open="", reasoning_close=""
)
CONFIGS = [
    *(PromptConfig(template=name) for name in ("r1", "instruction", "chatml", "llama3", "huatuo")),
    PromptConfig(template="plain"),
    PromptConfig(template="plain", system='Say "yes"\nor no'),
    PromptConfig(template="chatml", system=""),
    PromptConfig(template="custom", custom=CUSTOM),
]


@pytest.fixture(scope="module")
def render(tmp_path_factory):
    """Calls the Go program with templates and chats."""
    go = shutil.which("go")
    if go is None:
        pytest.skip("go is not installed: it renders the templates as Ollama does")
    program = tmp_path_factory.mktemp("go") / "render"
    source = Path(__file__).with_name("ollama_render.go")
    subprocess.run([go, "build", "-o", str(program), str(source)], check=True, timeout=300)

    def render(asked):
        lines = "\n".join(json.dumps(one) for one in asked)
        done = subprocess.run([program], input=lines, capture_output=True, text=True, check=True)
        return [json.loads(line) for line in done.stdout.splitlines()]

    return render


@pytest.fixture(scope="module", params=["smollm2", "r1"])
def tokenizer(request):
    if request.param == "smollm2":
        return load_tokenizer(request.getfixturevalue("smollm2_gguf"))
    shared = request.getfixturevalue("shared")
    return load_tokenizer(shared / "tokenizers" / "deepseek-r1-distill-llama-8b")


def chats():
    """120 chats: every starter question alone, with a system text, or after earlier turns."""
    cases = load_starter()
    found = []
    for index, case in enumerate(cases):
        before, system = cases[index - 1], [("system", "Be short.\nSay {{ so }}.")]
        earlier = [("user", before.question), ("assistant", before.response)]
        turns = [("user", f"患者 🩺 <|im_end|> {case.question}")]
        found.append((system if index % 3 else []) + (earlier * (index % 4)) + turns)
    return found


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: f"{c.template}-{c.system!r}")
def test_ollama_asks_as_training_did(config, tokenizer, render):
    template = get_template(config)
    source = go_template(template, tokenizer)
    asked = chats()
    messages = [[{"role": role, "content": text} for role, text in chat] for chat in asked]
    texts = render([{"template": source, "messages": one} for one in messages])
    assert len(texts) == len(asked) == 120
    bos = [] if tokenizer.bos_id is None or not tokenizer.adds_bos else [tokenizer.bos_id]
    for text, chat in zip(texts, asked):
        ids = render_chat(chat, template=template, tokenizer=tokenizer)  # no control token in it
        assert text == tokenizer.decode(ids[len(bos) :])

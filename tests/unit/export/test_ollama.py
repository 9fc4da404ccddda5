"""Ollama: its Modelfile, and the program where it is installed."""

from __future__ import annotations

import os

import pytest

from medimind.config.prompt import PromptConfig, UserTemplateConfig
from medimind.errors import ExportError
from medimind.export import ollama
from medimind.prompts.templates import get_template
from medimind.prompts.tokenizer import load_tokenizer


@pytest.fixture(scope="module")
def tokenizer(smollm2_gguf):
    return load_tokenizer(smollm2_gguf)


def text_of(tokenizer, prompt, **changes):
    values = {"temperature": 0.6, "top_p": 0.95, "max_new_tokens": 512, "context": 4096}
    return ollama.modelfile(
        model="m.gguf", template=get_template(prompt), tokenizer=tokenizer, **(values | changes)
    )


def test_the_modelfile_asks_as_the_model_was_taught(tokenizer):
    text = text_of(tokenizer, PromptConfig(template="chatml", system="Be careful."))
    assert text.startswith("FROM ./m.gguf\nTEMPLATE ")
    assert 'PARAMETER stop "<|im_end|>"' in text
    assert "PARAMETER temperature 0.6\nPARAMETER top_p 0.95\nPARAMETER num_predict 512" in text
    assert "<|im_start|>system\nBe careful.<|im_end|>" in text
    assert "<|im_start|>user\n{{ .Content }}<|im_end|>" in text
    assert text.count("ADAPTER") == 0
    assert "ADAPTER ./a.gguf" in text_of(tokenizer, PromptConfig(), adapter="a.gguf")


def test_text_that_go_would_read_is_quoted(tokenizer):
    custom = UserTemplateConfig(prompt="{{secret}} {question} =>")
    text = text_of(tokenizer, PromptConfig(template="custom", custom=custom))
    assert '{{ "' in text
    quotes = UserTemplateConfig(prompt='say """ {question}')
    with pytest.raises(ExportError, match="no Modelfile can hold"):
        text_of(tokenizer, PromptConfig(template="custom", custom=quotes))


def program(tmp_path, monkeypatch, body):
    folder = tmp_path / "bin"
    folder.mkdir()
    file = folder / "ollama"
    file.write_text(f"#!/bin/sh\n{body}\n")
    file.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")


def test_ollama_is_called_in_the_folder(tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, 'echo "$@" > called; test -f Modelfile')
    ollama.write_modelfile(tmp_path, "FROM ./m.gguf\n")
    ollama.create("mine", tmp_path)
    assert (tmp_path / "called").read_text() == "create mine -f Modelfile\n"


def test_what_ollama_says_is_passed_on(tmp_path, monkeypatch):
    program(tmp_path, monkeypatch, 'echo "Error: no space" >&2; exit 1')
    with pytest.raises(ExportError, match="no space"):
        ollama.create("mine", tmp_path)


def test_without_ollama_the_command_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(ExportError, match="not installed here") as caught:
        ollama.create("mine", tmp_path)
    assert "ollama create mine -f Modelfile" in str(caught.value)

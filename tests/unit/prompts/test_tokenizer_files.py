"""Damaged tokenizer files end in an error that says where and what to do."""

from __future__ import annotations

import contextlib
import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from small_tokenizers import small_backend, write_folder

from medimind.errors import MediMindError, PromptError
from medimind.prompts.tokenizer import load_tokenizer

GOOD = small_backend().to_str()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not JSON"),
        (b"{", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b"[]", "not a tokenizer definition"),
        (b"null", "not a tokenizer definition"),
        (b'{"model": []}', "not a tokenizer definition"),
        (b'{"model": {"vocab": 3}}', "not a tokenizer definition"),
        (b'{"model": {"type": "BPE", "vocab": {}, "merges": []}}', "vocabulary is empty"),
        (b'{"model": {"type": "BPE", "vocab": {"a": -1}, "merges": []}}', "not valid"),
        (b'{"model": {"type": "Nope", "vocab": {"a": 0}}}', "not valid"),
        (b"\xff\xfe{\x00}\x00", "not UTF-8"),
        (b"\x00\x00\x00", "not JSON"),
        (GOOD.encode()[: len(GOOD) // 2], "not JSON"),
    ],
)
def test_a_damaged_definition_is_refused(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(content)
    with pytest.raises(PromptError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert caught.value.where == str(tmp_path / "tokenizer.json")
    assert caught.value.fix


def test_a_byte_order_mark_does_no_harm(tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert load_tokenizer(tmp_path).encode("pain")


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("{", "not JSON"),
        ("[1]", "not a JSON object"),
        ('{"eos_token": 3}', "'eos_token' is neither"),
        ('{"eos_token": {"content": 3}}', "'eos_token' is neither"),
        ('{"eos_token": "<gone>"}', "EOS token '<gone>' is not in the vocabulary"),
        ('{"bos_token": "<gone>", "add_bos_token": true}', "BOS token '<gone>'"),
        ('{"chat_template": 3}', "'chat_template' is neither"),
    ],
)
def test_a_damaged_config_is_refused(config: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "tokenizer.json").write_text(GOOD, encoding="utf-8")
    (tmp_path / "tokenizer_config.json").write_text(config, encoding="utf-8")
    with pytest.raises(PromptError, match=message) as caught:
        load_tokenizer(tmp_path)
    assert caught.value.where


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(PromptError, match=r"holds no tokenizer\.json"):
        load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.model").write_bytes(b"x")
    with pytest.raises(PromptError, match=r"only tokenizer\.model"):
        load_tokenizer(tmp_path)
    with pytest.raises(PromptError, match="no such file"):
        load_tokenizer(tmp_path / "gone")
    with pytest.raises(PromptError, match=r"neither a checkpoint's folder nor a \.gguf"):
        load_tokenizer(tmp_path / "tokenizer.model")
    (tmp_path / "a.gguf").write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(MediMindError):
        load_tokenizer(tmp_path / "a.gguf")


def test_an_unreadable_file_is_no_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object, **__: object) -> str:
        raise PermissionError(13, "Permission denied")

    write_folder(tmp_path, small_backend())
    monkeypatch.setattr(Path, "read_text", refuse)
    with pytest.raises(PromptError, match="cannot be read"):
        load_tokenizer(tmp_path)


def test_cutting_and_padding_of_the_file_are_switched_off(tmp_path: Path) -> None:
    backend = small_backend()
    backend.enable_truncation(4)
    backend.enable_padding(length=64)
    tokenizer = load_tokenizer(write_folder(tmp_path, backend, eos_token="<eos>"))
    text = "A 54-year-old woman has chest pain and fever."
    assert tokenizer.decode(tokenizer.encode(text)) == text


KEYS = ["model", "added_tokens", "pre_tokenizer", "decoder", "normalizer", "post_processor"]


@given(
    key=st.sampled_from(KEYS),
    value=st.sampled_from([None, 3, "x", [], {}, [{}], {"type": "BPE"}, {"type": "Sequence"}]),
)
@settings(deadline=None, max_examples=60)
def test_no_mutation_of_the_definition_ends_in_a_traceback(
    key: str, value: object, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("mutated")
    definition = json.loads(GOOD) | {key: value}
    (folder / "tokenizer.json").write_text(json.dumps(definition), encoding="utf-8")
    with contextlib.suppress(MediMindError):
        load_tokenizer(folder).encode("pain")

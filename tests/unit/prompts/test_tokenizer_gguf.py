"""Tokenizers out of GGUF headers: the same ids as an independent BPE and as the published files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import regex
from reference_bpe import GPT2, LLAMA3, QWEN2, ReferenceBpe, smollm_words

from medimind.cases.case import Case
from medimind.errors import PromptError
from medimind.formats.gguf import read_gguf
from medimind.prompts.tokenizer import Tokenizer, load_tokenizer
from medimind.prompts.tokenizer_gguf import PRE_TOKENIZERS, TokenType, definition_from_metadata

TRICKY = [
    "Temp 38.5 in 2023  patient's\n\n12345 mg 中文",
    "  x\t\t y\r\n\r\n9   ",
    "½ ² Ⅷ ٣٤ café naïve 👩‍⚕️ 🩺",
    "I'LL we've DON'T ... !!!\n\n\nend",
    "",
]


def metadata_of(folder: Path, *, pre: str) -> dict[str, Any]:
    """A GGUF header that says what ``tokenizer.json`` says."""
    definition = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
    added = {t["id"]: t for t in definition["added_tokens"]}
    by_id = {i: t for t, i in definition["model"]["vocab"].items()}
    by_id |= {i: t["content"] for i, t in added.items()}
    tokens = [by_id[i] for i in range(len(by_id))]
    types = [
        TokenType.NORMAL
        if i not in added
        else TokenType.CONTROL
        if added[i]["special"]
        else TokenType.USER_DEFINED
        for i in range(len(tokens))
    ]
    merges = definition["model"]["merges"]
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*tokens, "[PAD]"],
        "tokenizer.ggml.token_type": [*types, TokenType.UNUSED],
        "tokenizer.ggml.merges": [m if isinstance(m, str) else " ".join(m) for m in merges],
        "tokenizer.ggml.bos_token_id": tokens.index("<｜begin▁of▁sentence｜>"),
        "tokenizer.ggml.eos_token_id": tokens.index("<｜end▁of▁sentence｜>"),
        "tokenizer.ggml.add_bos_token": True,
    }


def texts_of(cases: list[Case]) -> list[str]:
    return [*TRICKY, *(t for case in cases for t in (case.question, case.reasoning))]


@pytest.mark.parametrize(
    ("name", "pre", "pattern"),
    [
        ("deepseek-r1-distill-llama-8b", "llama-bpe", LLAMA3),
        ("deepseek-r1-distill-qwen-7b", "deepseek-r1-qwen", QWEN2),
    ],
)
def test_a_header_gives_the_ids_of_the_published_files_and_of_the_reference(
    name: str, pre: str, pattern: str, shared: Path, real_cases: list[Case]
) -> None:
    folder = shared / "tokenizers" / name
    published = load_tokenizer(folder)
    metadata = metadata_of(folder, pre=pre)
    ours = Tokenizer(definition_from_metadata(metadata, where="made.gguf"))
    reference = ReferenceBpe(
        {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])},
        [tuple(m.split(" ")) for m in metadata["tokenizer.ggml.merges"]],
        ignore_merges=pre == "llama-bpe",
    )
    texts = texts_of(real_cases[::4])
    assert ours.encode_batch(texts) == published.encode_batch(texts)
    assert ours.encode_batch(texts) == [reference.ids(regex.findall(pattern, t)) for t in texts]
    assert [ours.decode(ids) for ids in ours.encode_batch(texts)] == texts
    assert ours.encode("<｜User｜>a<think>\n") == published.encode("<｜User｜>a<think>\n")
    assert (ours.bos_id, ours.eos_id, ours.adds_bos) == (
        published.bos_id,
        published.eos_id,
        published.adds_bos,
    )
    assert ours.token_id("[PAD]") is None


def test_smollm2_gives_the_ids_of_the_reference(
    smollm2_gguf: Path, smollm2: Tokenizer, real_cases: list[Case]
) -> None:
    metadata = read_gguf(smollm2_gguf).metadata
    reference = ReferenceBpe(
        {token: i for i, token in enumerate(metadata["tokenizer.ggml.tokens"])},
        [tuple(m.split(" ")) for m in metadata["tokenizer.ggml.merges"]],
        ignore_merges=False,
    )
    texts = texts_of(real_cases)
    assert smollm2.encode_batch(texts) == [reference.ids(smollm_words(text)) for text in texts]


def small_header(**changes: Any) -> dict[str, Any]:
    tokens = ["a", "b", "ab", "1", "2", "12", "Ġ", "<eos>", "<think>", "unused"]
    header = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1, 1, 1, 1, 1, 1, 1, 3, 4, 5],
        "tokenizer.ggml.merges": ["a b", "1 2"],
        "tokenizer.ggml.eos_token_id": 7,
    }
    changes = {f"tokenizer.ggml.{key}": value for key, value in changes.items()}
    return {k: v for k, v in (header | changes).items() if v is not None}


def small_tokenizer(**changes: Any) -> Tokenizer:
    return Tokenizer(definition_from_metadata(small_header(**changes), where="small.gguf"))


def test_each_pre_tokenizer_cuts_digits_as_it_should() -> None:
    for name in PRE_TOKENIZERS:
        expected = [3, 4] if name in ("smollm", "qwen2", "deepseek-r1-qwen") else [5]
        assert small_tokenizer(pre=name).encode("12") == expected, name


def test_token_types_say_what_is_special() -> None:
    tokenizer = small_tokenizer()
    assert tokenizer.encode("ab<eos><think>") == [2, 7, 8]
    assert tokenizer.decode([2, 7, 8], skip_special=True) == "ab<think>"
    assert tokenizer.token_id("unused") is None
    assert not tokenizer.adds_bos
    assert small_tokenizer(token_type=None).encode("ab") == [2]


def test_llama3_adds_bos_unless_the_header_says_no() -> None:
    assert small_tokenizer(pre="llama-bpe", bos_token_id=7).adds_bos
    assert not small_tokenizer(pre="llama-bpe", bos_token_id=7, add_bos_token=False).adds_bos


def test_gpt2_reference_pattern_is_ours() -> None:
    words = regex.findall(GPT2, "ab 12")
    assert words == ["ab", " 12"]
    assert small_tokenizer().encode("ab 12") == [2, 6, 5]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "t5"}, "of kind 't5'"),
        ({"model": None}, "no text 'tokenizer.ggml.model'"),
        ({"pre": "tekken"}, "known are deepseek-r1-qwen, gpt-2, llama-bpe"),
        ({"pre": 3}, "no text 'tokenizer.ggml.pre'"),
        ({"tokens": None}, "no list of texts"),
        ({"tokens": []}, "is empty"),
        ({"tokens": "abc"}, "no list of texts"),
        ({"tokens": ["a", 1]}, "no list of texts"),
        ({"tokens": ["a", "a"], "token_type": [1, 1]}, "holds a token twice"),
        ({"token_type": [1]}, "have 1 token types"),
        ({"token_type": "xx"}, "no list of whole numbers"),
        ({"token_type": [1.5] * 10}, "no list of whole numbers"),
        ({"merges": None}, "no list of texts"),
        ({"merges": ["ab"]}, "merge 0 is not two tokens"),
        ({"merges": ["a b c"]}, "merge 0 is not two tokens"),
        ({"merges": ["a q"]}, "do not fit together"),
        ({"eos_token_id": 99}, "is 99, but there are 10 tokens"),
        ({"eos_token_id": -1}, "is -1"),
        ({"eos_token_id": "7"}, "not a whole number"),
        ({"eos_token_id": True}, "not a whole number"),
        ({"eos_token_id": 9}, "EOS token 'unused' is not in the vocabulary"),
        ({"add_bos_token": "yes"}, "is not true or false"),
    ],
)
def test_a_wrong_header_is_refused_with_the_reason(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(PromptError, match=message) as caught:
        small_tokenizer(**changes)
    assert caught.value.where == "small.gguf"
    assert caught.value.fix

"""Tokenizers and cases that the tests of prompts share."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_tokenizers import small_backend, write_folder

from medimind.cases.case import Case
from medimind.prompts.tokenizer import Tokenizer, load_tokenizer


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """ChatML tokens, BOS added, ``<think>`` ordinary text, padding equal to EOS."""
    folder = write_folder(
        tmp_path_factory.mktemp("small"),
        small_backend(),
        bos_token="<bos>",
        eos_token="<eos>",
        pad_token="<eos>",
        add_bos_token=True,
    )
    return load_tokenizer(folder)


@pytest.fixture(scope="session")
def small_thinking(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    """``<think>`` and ``</think>`` tokens of their own, no BOS, no padding token."""
    folder = write_folder(
        tmp_path_factory.mktemp("small_thinking"),
        small_backend(plain_added=("<think>", "</think>")),
        eos_token={"content": "<eos>", "__type": "AddedToken"},
    )
    return load_tokenizer(folder)


@pytest.fixture(scope="session")
def smollm2(smollm2_gguf: Path) -> Tokenizer:
    return load_tokenizer(smollm2_gguf)


@pytest.fixture(scope="session")
def r1_llama(shared: Path) -> Tokenizer:
    return load_tokenizer(shared / "tokenizers" / "deepseek-r1-distill-llama-8b")


@pytest.fixture(scope="session")
def r1_qwen(shared: Path) -> Tokenizer:
    return load_tokenizer(shared / "tokenizers" / "deepseek-r1-distill-qwen-7b")


@pytest.fixture(scope="session")
def real_cases(shared: Path) -> list[Case]:
    """60 English and 40 Chinese rows of medical-o1-reasoning-SFT."""
    lines = (shared / "data/cot/medical_o1_500.jsonl").read_text(encoding="utf-8").splitlines()
    chinese = json.loads((shared / "data/cot/medical_o1_zh_200.json").read_text(encoding="utf-8"))
    rows = [*map(json.loads, lines[:60]), *chinese[:40]]
    return list(_cases(rows))


def _cases(rows: list[dict[str, str]]) -> Iterator[Case]:
    for index, row in enumerate(rows):
        yield Case(
            id=f"row:{index}",
            question=row["Question"],
            reasoning=row["Complex_CoT"],
            response=row["Response"],
        )

"""Damaged checkpoints end in a clear error or load as what they are; never in anything else."""

from __future__ import annotations

import contextlib
import time

import numpy as np
import pytest
import torch

from medimind.errors import MediMindError
from medimind.models.checkpoint import open_checkpoint
from medimind.prompts.tokenizer import load_tokenizer
from tiny_checkpoints import make_transformers_model, write_folder, write_gguf

NUMBERS = (0, 1, 2**31, 2**60, 2**64 - 1)
COUNT = 150


def damaged(data, rng, header):
    changed = bytearray(data)
    at = int(rng.integers(0, min(header, len(data)) - 8))
    kind = int(rng.integers(0, 4))
    if kind == 0:
        changed[at] ^= 1 << int(rng.integers(0, 8))
    elif kind == 1:
        changed[at : at + 8] = NUMBERS[int(rng.integers(0, len(NUMBERS)))].to_bytes(8, "little")
    elif kind == 2:
        del changed[at:]
    else:
        del changed[at : at + int(rng.integers(1, 40))]
    return bytes(changed)


def read_whole(path):
    load_tokenizer(path)
    checkpoint = open_checkpoint(path)
    for name in checkpoint.shapes:
        checkpoint.read(name, dtype=torch.float32)


@pytest.mark.parametrize("kind", ["gguf", "safetensors"])
def test_any_damage_is_told_at_once(tmp_path, kind):
    if kind == "gguf":
        target = file = write_gguf(tmp_path / "m.gguf", make_transformers_model("llama"))
        header = 1500
    else:
        target = write_folder(tmp_path / "base", "qwen3")
        file = target / "model.safetensors"
        header = 1500
    whole = file.read_bytes()
    read_whole(target)
    rng = np.random.default_rng(5)
    refused = 0
    for number in range(COUNT):
        file.write_bytes(damaged(whole, rng, header))
        started = time.perf_counter()
        with contextlib.suppress(MediMindError):
            read_whole(target)
            refused -= 1
        refused += 1
        assert time.perf_counter() - started < 2, number
    assert refused > COUNT / 3


def test_a_safetensors_header_that_asks_for_2_to_the_60(tmp_path):
    folder = write_folder(tmp_path / "base", "llama")
    file = folder / "model.safetensors"
    file.write_bytes((1 << 60).to_bytes(8, "little") + file.read_bytes()[8:])
    with pytest.raises(MediMindError, match=r"model\.safetensors"):
        read_whole(folder)

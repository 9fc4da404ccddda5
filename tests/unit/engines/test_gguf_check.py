"""Headers whose numbers would end llama.cpp's process are refused before it sees them."""

from __future__ import annotations

import struct

import pytest

from medimind.engines.gguf_check import check_header
from medimind.errors import CheckpointError
from medimind.formats.gguf import read_gguf
from tiny_checkpoints import make_transformers_model, write_gguf

COUNTS = (
    "block_count",
    "context_length",
    "embedding_length",
    "feed_forward_length",
    "attention.head_count",
    "attention.head_count_kv",
    "vocab_size",
)


@pytest.fixture
def whole(tmp_path):
    return write_gguf(tmp_path / "m.gguf", make_transformers_model("llama"))


def patched(path, key, layout, value):
    data = bytearray(path.read_bytes())
    at = data.index(f"llama.{key}".encode()) + len(f"llama.{key}") + 4
    struct.pack_into(layout, data, at, value)
    path.write_bytes(data)
    return read_gguf(path)


def test_a_sound_header_passes(whole, smollm2_gguf):
    check_header(read_gguf(whole))
    check_header(read_gguf(smollm2_gguf))


@pytest.mark.parametrize("value", [0, 2**31, 2**32 - 1])
@pytest.mark.parametrize("key", COUNTS)
def test_counts_that_make_no_sense(whole, key, value):
    with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
        check_header(patched(whole, key, "<I", value))


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf")])
@pytest.mark.parametrize("key", ["rope.freq_base", "attention.layer_norm_rms_epsilon"])
def test_numbers_that_must_be_positive(whole, key, value):
    with pytest.raises(CheckpointError, match=key.replace(".", r"\.")):
        check_header(patched(whole, key, "<f", value))


def test_counts_that_do_not_fit_each_other_or_the_tensors(whole):
    for key, value, text in (
        ("attention.head_count_kv", 3, "cannot share"),
        ("block_count", 3, "tensors of 2 layers"),
        ("vocab_size", 319, "token_embd"),
    ):
        kept = whole.read_bytes()
        with pytest.raises(CheckpointError, match=text):
            check_header(patched(whole, key, "<I", value))
        whole.write_bytes(kept)

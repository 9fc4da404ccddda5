"""Damaged model files: never anything but a MediMindError, soon and in little memory (bar 6)."""

from __future__ import annotations

import json
import resource
import shutil
import struct
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from medimind.config import ModelConfig
from medimind.errors import MediMindError
from medimind.models.adapter import load_adapter, save_adapter
from medimind.models.load import load_model
from medimind.models.lora import attach_lora, lora_parameters
from tiny_checkpoints import make_transformers_model, write_gguf

SECONDS = 2.0
MEMORY = 256 << 20
JUNK = [None, True, -1, 0, 2.5, "x", "\0", [], {}, 1 << 62, 10**30]


def load(path):
    return load_model(ModelConfig(path=str(path), quantization="none", device="cpu"))


def peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


def survives(action) -> str | None:
    """The error's text, or ``None`` where the mutation did no harm."""
    before, started = peak_memory(), time.process_time()
    try:
        action()
    except MediMindError as error:
        message = str(error)
    else:
        message = None
    assert time.process_time() - started < SECONDS
    assert peak_memory() - before < MEMORY
    return message


def flips(content: bytes, *, end: int, count: int, seed: int):
    random = np.random.default_rng(seed)
    for position in random.choice(end * 8, count, replace=False):
        flipped = bytearray(content)
        flipped[position // 8] ^= 1 << (position % 8)
        yield f"bit {position} flipped", bytes(flipped)


def cuts(content: bytes, *, count: int, seed: int):
    for length in sorted(np.random.default_rng(seed).integers(0, len(content), count)):
        yield f"cut to {length} bytes", content[:length]


def overwritten(content: bytes, *, end: int, count: int, seed: int):
    """Eight bytes somewhere become a huge number, a minus one, or zeros."""
    random = np.random.default_rng(seed)
    for index, start in enumerate(random.integers(4, end - 8, count)):
        value = (1 << 60, (1 << 64) - 1, 0, 0x7FC0_0000_7FC0_0000)[index % 4]
        changed = bytearray(content)
        changed[start : start + 8] = struct.pack("<Q", value)
        yield f"{value:#x} written at byte {start}", bytes(changed)


@pytest.fixture(scope="module")
def gguf_bytes(tmp_path_factory) -> bytes:
    path = tmp_path_factory.mktemp("gguf") / "tiny.gguf"
    return write_gguf(path, make_transformers_model("qwen2")).read_bytes()


@pytest.fixture
def folder(tmp_path, tiny_folder) -> Path:
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def test_gguf_files(tmp_path, gguf_bytes):
    header = 12_000
    path = tmp_path / "mutated.gguf"
    path.write_bytes(gguf_bytes)
    load(path)
    refused = 0
    mutations = [
        *flips(gguf_bytes, end=600, count=25, seed=0),
        *flips(gguf_bytes, end=header, count=20, seed=1),
        *cuts(gguf_bytes, count=20, seed=2),
        *overwritten(gguf_bytes, end=header, count=20, seed=3),
    ]
    for name, content in mutations:
        path.write_bytes(content)
        message = survives(lambda: load(path))
        if message is None:
            assert "cut" not in name
        else:
            refused += 1
            assert "mutated.gguf" in message, name
    assert len(mutations) == 85
    assert refused > 50


def test_safetensors_files(folder):
    path = folder / "model.safetensors"
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    mutations = [
        *flips(content, end=header, count=25, seed=4),
        *cuts(content, count=12, seed=5),
        *overwritten(content, end=header, count=12, seed=6),
        ("a byte too many", content + b"\0"),
    ]
    for name, changed in mutations:
        path.write_bytes(changed)
        message = survives(lambda: load(folder))
        assert message is not None or "flipped" in name, name
        assert message is None or "model" in message
    assert len(mutations) == 50


def test_configurations(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    for index, key in enumerate(config):
        for junk in JUNK[index % 3 :: 3]:
            path.write_text(json.dumps(config | {key: junk}))
            survives(lambda: load(folder))
    rope = config["rope_parameters"]
    for key in rope:
        for junk in JUNK[::2]:
            path.write_text(json.dumps(config | {"rope_parameters": rope | {key: junk}}))
            survives(lambda: load(folder))
    content = json.dumps(config).encode()
    texts = [content[:40], b"", b"\0" * 9, content.decode().encode("utf-16"), b"[" * 99_999, b"7"]
    for text in texts:
        path.write_bytes(text)
        assert "config.json" in (survives(lambda: load(folder)) or "")


@pytest.mark.parametrize("name", ["generation_config.json", "model.safetensors.index.json"])
def test_files_beside_the_weights(folder, name):
    for text in (b"", b"\xff\xfe\0", b"[1]", b'{"eos_token_id": {"a": 1}}', b'{"weight_map": 3}'):
        (folder / name).write_bytes(text)
        survives(lambda: load(folder))


def test_adapters(tmp_path, tiny):
    decoder = tiny.decoder
    attach_lora(decoder, rank=4, alpha=4, seed=0)
    with torch.no_grad():
        for parameter in lora_parameters(decoder).values():
            parameter.normal_()
    adapter = tmp_path / "adapter"
    save_adapter(adapter, decoder, base_model_name="tiny")
    before = {n: p.detach().clone() for n, p in lora_parameters(decoder).items()}
    (adapter / "manifest.json").unlink()
    path = adapter / "adapter_model.safetensors"
    content = path.read_bytes()
    header = 8 + int.from_bytes(content[:8], "little")
    mutations = [
        *flips(content, end=header, count=25, seed=7),
        *cuts(content, count=10, seed=8),
        *overwritten(content, end=header, count=10, seed=9),
        ("NaN", content[:-4] + struct.pack("<f", float("nan"))),
    ]
    for name, changed in mutations:
        path.write_bytes(changed)
        message = survives(lambda: load_adapter(adapter, decoder))
        assert message is not None or "flipped" in name, name
        if message is not None:
            for key, parameter in lora_parameters(decoder).items():
                assert torch.equal(parameter, before[key])
    path.write_bytes(content)
    path = adapter / "adapter_config.json"
    config = json.loads(path.read_text())
    for index, key in enumerate(config):
        for junk in JUNK[index % 3 :: 3]:
            path.write_text(json.dumps(config | {key: junk}))
            survives(lambda: load_adapter(adapter, decoder))
    for text in (b"", b"\0\0", b"[]", b'{"r": NaN}'):
        path.write_bytes(text)
        assert survives(lambda: load_adapter(adapter, decoder)) is not None

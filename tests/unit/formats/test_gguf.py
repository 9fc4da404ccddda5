"""GGUF headers and values against the gguf package's own writer and dequantiser."""

from __future__ import annotations

import struct
import time
import tracemalloc

import gguf
import numpy as np
import pytest
from gguf import GGMLQuantizationType as Kind
from gguf import quants

from medimind.errors import CheckpointError
from medimind.formats.gguf import is_gguf, read_gguf

DEQUANTISED = [kind for kind in Kind if kind in quants._type_traits or kind in (Kind.F32, Kind.F16)]


def write(path, tensors, *, extra=lambda writer: None):
    writer = gguf.GGUFWriter(path, "llama")
    extra(writer)
    for name, (values, kind) in tensors.items():
        writer.add_tensor(name, values, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def stored_values(kind: Kind, shape: tuple[int, int]) -> np.ndarray:
    """Bytes of a type; random where no quantiser is there, which every bit pattern allows."""
    random = np.random.default_rng(int(kind))
    try:
        return quants.quantize(random.normal(size=shape).astype(np.float32), kind)
    except NotImplementedError:
        byte_shape = quants.quant_shape_to_byte_shape(shape, kind)
        return random.integers(0, 256, byte_shape, dtype=np.uint8)


@pytest.mark.parametrize("kind", DEQUANTISED, ids=lambda kind: kind.name)
def test_every_type_reads_as_the_gguf_package_dequantises_it(tmp_path, kind):
    stored = stored_values(kind, (6, 512))
    file = read_gguf(write(tmp_path / "a.gguf", {"x": (stored, kind)}))
    with np.errstate(all="ignore"):
        expected = quants.dequantize(stored, kind)
    assert file.tensors["x"].shape == (6, 512)
    np.testing.assert_array_equal(file.read("x"), expected)
    np.testing.assert_array_equal(file.read_rows("x", start=2, stop=5), expected[2:5])
    np.testing.assert_array_equal(file.read_rows("x", start=4, stop=99), expected[4:])
    assert file.raw("x").tobytes() == stored.tobytes()


def test_values_longer_than_a_chunk(tmp_path):
    values = np.arange(3 * (1 << 20) + 64, dtype=np.float32).reshape(-1, 64)
    file = read_gguf(write(tmp_path / "a.gguf", {"x": (values, Kind.F32)}))
    np.testing.assert_array_equal(file.read("x"), values)


def test_metadata_of_every_type(tmp_path):
    def extra(writer):
        writer.add_uint8("u8", 200)
        writer.add_int8("i8", -3)
        writer.add_uint16("u16", 60000)
        writer.add_int16("i16", -30000)
        writer.add_uint32("u32", 4_000_000_000)
        writer.add_int32("i32", -2_000_000_000)
        writer.add_float32("f32", 0.5)
        writer.add_uint64("u64", 1 << 63)
        writer.add_int64("i64", -(1 << 62))
        writer.add_float64("f64", 0.1)
        writer.add_bool("yes", True)
        writer.add_string("text", "ärztlich 🩺")
        writer.add_array("texts", ["a", "Ġb", ""])
        writer.add_array("numbers", [1, 2, 3])
        writer.add_array("flags", [True, False])
        writer.add_array("floats", [0.5, 1.5])

    metadata = read_gguf(write(tmp_path / "a.gguf", {}, extra=extra)).metadata
    assert metadata == {
        "general.architecture": "llama",
        "u8": 200,
        "i8": -3,
        "u16": 60000,
        "i16": -30000,
        "u32": 4_000_000_000,
        "i32": -2_000_000_000,
        "f32": 0.5,
        "u64": 1 << 63,
        "i64": -(1 << 62),
        "f64": 0.1,
        "yes": True,
        "text": "ärztlich 🩺",
        "texts": ["a", "Ġb", ""],
        "numbers": [1, 2, 3],
        "flags": [True, False],
        "floats": [0.5, 1.5],
    }
    assert metadata["yes"] is True
    assert metadata["flags"][1] is False


def test_the_built_in_model_reads_as_the_gguf_package_reads_it(smollm2_gguf):
    ours, theirs = read_gguf(smollm2_gguf), gguf.GGUFReader(smollm2_gguf)
    assert {t.name for t in theirs.tensors} == set(ours.tensors)
    for tensor in theirs.tensors[1:12]:
        np.testing.assert_array_equal(
            ours.read(tensor.name), quants.dequantize(tensor.data, tensor.tensor_type)
        )
    for key in ("tokenizer.ggml.tokens", "tokenizer.chat_template", "llama.rope.freq_base"):
        assert ours.metadata[key] == theirs.fields[key].contents()


def u32(value):
    return struct.pack("<I", value)


def u64(value):
    return struct.pack("<Q", value)


def text(value):
    return u64(len(value)) + value


HEAD = b"GGUF" + u32(3)
NONE = u64(0)
NESTED = text(b"k") + u32(9) + b"".join((u32(9) + u64(1)) for _ in range(9)) + u32(4) + u64(0)
F32_TENSOR = text(b"t") + u32(1) + u64(8) + u32(0)
HOSTILE = {
    "empty": (b"", "too short"),
    "short": (b"GGUF", "too short"),
    "other magic": (b"PK\x03\x04" + bytes(40), "not a GGUF file"),
    "version 1": (b"GGUF" + u32(1) + NONE + NONE, "version 1"),
    "big-endian": (b"GGUF" + struct.pack(">I", 3) + NONE + NONE, "big-endian"),
    "2^60 tensors": (HEAD + u64(1 << 60) + NONE, "tensors are announced"),
    "2^60 keys": (HEAD + NONE + u64(1 << 60), "metadata keys are announced"),
    "2^60 in a string": (HEAD + NONE + u64(1) + u64(1 << 60) + bytes(40), "are left in the file"),
    "43 bytes, array of 2^60": (
        HEAD + NONE + u64(1) + text(b"abc") + u32(9) + u32(0) + u64(1 << 60),
        "array elements are announced",
    ),
    "array of 2^60 strings": (
        HEAD + NONE + u64(1) + text(b"k") + u32(9) + u32(8) + u64(1 << 60) + bytes(64),
        "array elements are announced",
    ),
    "nested": (HEAD + NONE + u64(1) + NESTED, "nested more than"),
    "unknown type": (HEAD + NONE + u64(1) + text(b"k") + u32(77) + bytes(8), "unknown type 77"),
    "unknown array": (
        HEAD + NONE + u64(1) + text(b"k") + u32(9) + u32(77) + u64(1) + bytes(8),
        "unknown type 77",
    ),
    "not UTF-8": (HEAD + NONE + u64(1) + text(b"\xff\xfe") + u32(4) + bytes(8), "not UTF-8"),
    "key twice": (HEAD + NONE + u64(2) + (text(b"k") + u32(4) + u32(1)) * 2, "there twice"),
    "no dimensions": (HEAD + u64(1) + NONE + text(b"t") + u32(0) + bytes(40), "0 dimensions"),
    "2^32 dimensions": (
        HEAD + u64(1) + NONE + text(b"t") + u32(0xFFFFFFFF) + bytes(40),
        "dimensions",
    ),
    "2^62 values": (
        HEAD + u64(1) + NONE + text(b"t") + u32(2) + u64(1 << 62) * 2 + u32(0) + NONE + bytes(64),
        "takes",
    ),
    "no values": (
        HEAD + u64(1) + NONE + text(b"t") + u32(1) + u64(0) + u32(0) + NONE + bytes(64),
        "impossible shape",
    ),
    "half a block": (
        HEAD + u64(1) + NONE + text(b"t") + u32(1) + u64(33) + u32(8) + NONE + bytes(64),
        "impossible shape",
    ),
    "tensor of unknown type": (
        HEAD + u64(1) + NONE + text(b"t") + u32(1) + u64(32) + u32(999) + NONE + bytes(64),
        "unknown type 999",
    ),
    "offset beyond the end": (
        HEAD + u64(1) + NONE + F32_TENSOR + u64(1 << 40) + bytes(96),
        "would end at byte",
    ),
    "offset off the alignment": (
        HEAD + u64(1) + NONE + F32_TENSOR + u64(7) + bytes(96),
        "alignment",
    ),
    "tensor twice": (
        HEAD + u64(2) + NONE + F32_TENSOR + u64(0) + F32_TENSOR + u64(32) + bytes(160),
        "there twice",
    ),
    "overlap": (
        HEAD
        + u64(2)
        + NONE
        + F32_TENSOR
        + u64(0)
        + F32_TENSOR.replace(b"t", b"u")
        + u64(0)
        + bytes(160),
        "overlap",
    ),
    "alignment 0": (
        HEAD + NONE + u64(1) + text(b"general.alignment") + u32(4) + u32(0) + bytes(64),
        "general.alignment is 0",
    ),
    "alignment a text": (
        HEAD + NONE + u64(1) + text(b"general.alignment") + u32(8) + text(b"32") + bytes(64),
        "general.alignment is '32'",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_header_is_refused_at_once_without_memory(tmp_path, name):
    content, message = HOSTILE[name]
    path = tmp_path / "hostile.gguf"
    path.write_bytes(content)
    tracemalloc.start()
    started = time.perf_counter()
    with pytest.raises(CheckpointError, match=message.replace("^", r"\^")) as caught:
        read_gguf(path)
    assert time.perf_counter() - started < 2
    assert tracemalloc.get_traced_memory()[1] < 4 << 20
    tracemalloc.stop()
    assert str(path) in str(caught.value)


def test_a_missing_file_and_a_folder_are_told(tmp_path):
    with pytest.raises(CheckpointError, match="cannot open"):
        read_gguf(tmp_path / "none.gguf")
    with pytest.raises(CheckpointError, match="cannot open"):
        read_gguf(tmp_path)
    with pytest.raises(CheckpointError, match="cannot open"):
        read_gguf("a\0b.gguf")
    assert not is_gguf(tmp_path)


def test_unknown_tensors_and_types_without_dequantiser(tmp_path):
    stored = np.zeros((2, 292), dtype=np.uint8)
    file = read_gguf(write(tmp_path / "a.gguf", {"x": (stored, Kind.Q8_K)}))
    assert is_gguf(file.path)
    with pytest.raises(CheckpointError, match="no tensor 'y'"):
        file.read("y")
    with pytest.raises(CheckpointError, match="Q8_K, which cannot be dequantised"):
        file.read("x")

"""Safetensors headers, JSON files and atomic folders."""

from __future__ import annotations

import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from medimind.errors import AdapterError, CheckpointError, ExportError
from medimind.formats.folder import MANIFEST, atomic_folder, check_manifest, write_manifest
from medimind.formats.json_file import read_json_object
from medimind.formats.safetensors_file import read_header


def container(header: object, data: bytes = b"", *, length: int | None = None) -> bytes:
    raw = header if isinstance(header, bytes) else json.dumps(header).encode()
    return (len(raw) if length is None else length).to_bytes(8, "little") + raw + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def test_a_header_says_what_the_library_wrote(tmp_path):
    path = tmp_path / "a.safetensors"
    tensors = {"a": np.ones((2, 3), np.float32), "b": np.zeros((4,), np.float16)}
    save_file(tensors, path, metadata={"format": "pt"})
    header = read_header(path)
    assert header.metadata == {"format": "pt"}
    content = path.read_bytes()
    for name, values in tensors.items():
        found = header.tensors[name]
        assert found.shape == values.shape
        assert content[found.offset : found.offset + found.num_bytes] == values.tobytes()


BROKEN = {
    "empty": b"",
    "length beyond the file": container({}, length=1 << 60),
    "not JSON": container(b"{nonsense"),
    "not UTF-8": container(b'{"\xff": 1}'),
    "a list": container([1, 2]),
    "nested": container(b"[" * 100_000),
    "tensor a number": container({"a": 1}),
    "unknown dtype": container({"a": entry("F99")}, bytes(8)),
    "dtype a list": container({"a": entry(["F32"])}, bytes(8)),
    "negative shape": container({"a": entry(shape=[-2])}, bytes(8)),
    "shape of texts": container({"a": entry(shape=["2"])}, bytes(8)),
    "shape of truths": container({"a": entry(shape=[True, 2])}, bytes(8)),
    "2^62 values": container({"a": entry(shape=[1 << 62, 1 << 62])}, bytes(8)),
    "huge number": container(b'{"a":{"dtype":"F32","shape":[' + b"9" * 5000 + b"]}}"),
    "nine dimensions": container({"a": entry(shape=[1] * 9, offsets=[0, 4])}, bytes(4)),
    "offsets backwards": container({"a": entry(offsets=[8, 0])}, bytes(8)),
    "three offsets": container({"a": entry(offsets=[0, 4, 8])}, bytes(8)),
    "offsets beyond": container({"a": entry(offsets=[8, 16])}, bytes(8)),
    "shape larger than data": container({"a": entry(shape=[3])}, bytes(8)),
    "overlap": container({"a": entry(), "b": entry()}, bytes(8)),
    "gap": container({"a": entry(), "b": entry(offsets=[12, 20])}, bytes(20)),
    "cut": container({"a": entry()}, bytes(5)),
    "too long": container({"a": entry()}, bytes(9)),
    "metadata a list": container({"__metadata__": [1]}),
    "metadata of numbers": container({"__metadata__": {"a": 1}}),
    "NaN": container(b'{"a": NaN}'),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_header_is_refused(tmp_path, name):
    path = tmp_path / "a.safetensors"
    path.write_bytes(BROKEN[name])
    with pytest.raises(CheckpointError, match=r"a\.safetensors"):
        read_header(path)
    with pytest.raises(AdapterError):
        read_header(path, error=AdapterError)


def test_files_that_cannot_be_opened(tmp_path):
    for path in (tmp_path / "none", tmp_path, "a\0b"):
        with pytest.raises(CheckpointError, match="cannot open"):
            read_header(path)
    with pytest.raises(CheckpointError, match="cannot open"):
        read_json_object(tmp_path)


def test_json_with_a_byte_order_mark_reads_and_large_files_do_not(tmp_path):
    path = tmp_path / "config.json"
    path.write_bytes(b'\xef\xbb\xbf{"a": 1}')
    assert read_json_object(path) == {"a": 1}
    with pytest.raises(CheckpointError, match="larger than"):
        read_json_object(path, max_bytes=4)
    path.write_text('{"a": 1,\n "b": }')
    with pytest.raises(CheckpointError, match=r"config\.json:2"):
        read_json_object(path)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "deep" / "out"
    with atomic_folder(target, error=ExportError) as fresh:
        (fresh / "a").write_text("1")
        assert not target.exists()

    def fail():
        with atomic_folder(target, error=ExportError) as fresh:
            (fresh / "a").write_text("2")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert (target / "a").read_text() == "1"
    with atomic_folder(target, error=ExportError) as fresh:
        (fresh / "b").write_text("3")
    assert [file.name for file in target.iterdir()] == ["b"]
    assert [file.name for file in target.parent.iterdir()] == ["out"]


def test_a_folder_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ExportError, match="cannot write"),
        atomic_folder(tmp_path / "file" / "out", error=ExportError),
    ):
        pass
    with (
        pytest.raises(ExportError, match="No space left"),
        atomic_folder(tmp_path / "out", error=ExportError),
    ):
        raise OSError(28, "No space left on device")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_cannot_take_its_place_leaves_the_old_one(tmp_path, monkeypatch):
    target = tmp_path / "out"
    target.mkdir()
    (target / "a").write_text("old")
    rename = type(target).rename

    def refuse(self, to):
        if self.name == "new":
            raise PermissionError(13, "Permission denied")
        return rename(self, to)

    monkeypatch.setattr(type(target), "rename", refuse)
    with pytest.raises(ExportError), atomic_folder(target, error=ExportError):
        pass
    assert (target / "a").read_text() == "old"


def test_a_manifest_notices_every_change(tmp_path):
    (tmp_path / "a").write_bytes(b"abc")
    assert check_manifest(tmp_path, error=AdapterError) == {}
    write_manifest(tmp_path, notes={"base": "x"})
    assert check_manifest(tmp_path, error=AdapterError) == {"base": "x"}
    (tmp_path / "a").write_bytes(b"abb")
    with pytest.raises(AdapterError, match="a was changed"):
        check_manifest(tmp_path, error=AdapterError)
    (tmp_path / "a").unlink()
    with pytest.raises(AdapterError, match="a is missing"):
        check_manifest(tmp_path, error=AdapterError)
    (tmp_path / MANIFEST).write_text('{"files": [1]}')
    with pytest.raises(AdapterError, match="'files'"):
        check_manifest(tmp_path, error=AdapterError)
    (tmp_path / MANIFEST).write_text('{"files": {"../a": "0"}}')
    with pytest.raises(AdapterError, match="missing"):
        check_manifest(tmp_path, error=AdapterError)

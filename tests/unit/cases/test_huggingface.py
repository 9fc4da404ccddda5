from __future__ import annotations

import json
import sys

import pytest
from sample_rows import o1_row, write_jsonl

from medimind.errors import DataError, MissingExtraError

datasets = pytest.importorskip("datasets")


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(
        "datasets.config.HF_DATASETS_CACHE", str(tmp_path_factory.mktemp("datasets"))
    )
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()


def hub(path: str, **settings) -> dict:
    return {"source": "huggingface", "path": path, **settings}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "set").mkdir()
    write_jsonl(tmp_path / "set" / "train.jsonl", [o1_row(n) for n in range(10)])
    write_jsonl(tmp_path / "set" / "test.jsonl", [o1_row(n) for n in range(10, 14)])
    return tmp_path


@pytest.mark.parametrize(
    ("split", "numbers"),
    [
        ("train", range(10)),
        ("train[:3]", range(3)),
        ("train[50%:]", range(5, 10)),
        ("test", range(10, 14)),
    ],
)
def test_a_local_folder_is_read_by_split_and_slice(folder, load, split, numbers):
    loaded = load(hub("set", split=split))
    assert [case.question.split()[1] for case in loaded.cases] == [str(n) for n in numbers]
    assert loaded.cases[0].id == "set:1"
    assert loaded.warnings == ()
    assert loaded.sources[0].files[0].path == f"set:{split}"
    assert len(loaded.sources[0].files[0].sha256) == 64


def test_limit_and_names_too_long_for_a_path(folder, load):
    assert len(load(hub("set", limit=4)).cases) == 4
    with pytest.raises(DataError, match="cannot be loaded"):
        load(hub("x" * 5000))


def test_content_decides_the_hash(folder, load):
    first = load(hub("set")).sources[0].files[0].sha256
    assert load(hub("set")).sources[0].files[0].sha256 == first
    assert load(hub("set", split="train[:9]")).sources[0].files[0].sha256 != first


def test_an_unpinned_revision_of_the_hub_is_a_warning(folder, load, monkeypatch):
    asked = {}

    def fake(path, name=None, *, split, revision):
        asked.update(path=path, name=name, split=split, revision=revision)
        return datasets.Dataset.from_list([o1_row(n) for n in range(3)])

    monkeypatch.setattr(datasets, "load_dataset", fake)
    source = hub("owner/set", name="en", split="train[:500]")
    (warning,) = load(source).warnings
    assert warning.startswith("owner/set:en:train[:500]: no revision is pinned")
    assert "rows of a slice differ between revisions" in warning
    assert asked == {"path": "owner/set", "name": "en", "split": "train[:500]", "revision": None}
    (warning,) = load(hub("owner/set")).warnings
    assert "slice" not in warning
    assert load({**source, "revision": "abc123"}).warnings == ()
    assert asked["revision"] == "abc123"


def test_errors_of_the_library_become_ours(folder, load, monkeypatch):
    with pytest.raises(DataError, match=r"set:dev: the data set cannot be loaded \(ValueError"):
        load(hub("set", split="dev"))

    def dictionary(*_, **__):
        return datasets.DatasetDict()

    monkeypatch.setattr(datasets, "load_dataset", dictionary)
    with pytest.raises(DataError, match="no single table"):
        load(hub("set"))


def test_a_row_that_cannot_be_decoded(folder, load, monkeypatch):
    def broken(self):
        yield o1_row(1)
        raise RuntimeError("decoder broke")

    monkeypatch.setattr(datasets.Dataset, "__iter__", broken)
    with pytest.raises(DataError, match=r"after row 1 \(RuntimeError: decoder broke\)"):
        load(hub("set"))


def test_huge_rows_are_rejected(folder, load, monkeypatch):
    monkeypatch.setattr("medimind.cases.sources.huggingface.MAX_ROW_CHARACTERS", 5000)
    with (folder / "set" / "train.jsonl").open("a") as file:
        file.write(json.dumps(o1_row(99, Response="x" * 9000)) + "\n")
    (rejection,) = load(hub("set")).rejections
    assert rejection.line == 11


def test_the_missing_package_is_named(folder, load, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'medimind\[data\]'"):
        load(hub("set"))

"""An export replaces an earlier one, and nothing that somebody else put there."""

from __future__ import annotations

import json

import pytest

from medimind.cli.output_folder import check_output, remove_earlier
from medimind.errors import ExportError

REPOSITORY = ["config.json", "model.safetensors", "tokenizer.json", "README.md", "a-q8_0.gguf"]


def filled(folder, names):
    folder.mkdir()
    for name in names:
        (folder / name).write_text("[]")
    return folder


def test_nothing_is_replaced_unasked(tmp_path):
    check_output(tmp_path / "new", "merged", force=False)
    with pytest.raises(ExportError, match=r"there already.*--force"):
        check_output(filled(tmp_path / "old", []), "merged", force=False)
    (tmp_path / "file").write_text("")
    with pytest.raises(ExportError, match="this is a file"):
        check_output(tmp_path / "file", "gguf", force=True)


@pytest.mark.parametrize(
    ("written", "names", "foreign"),
    [
        ("adapter", ["adapter_config.json", "adapter_model.safetensors", "manifest.json"], None),
        ("adapter", ["adapter_config.json", "config.json"], "config.json"),
        ("merged", ["model-00001-of-00002.safetensors", "model.safetensors.index.json"], None),
        ("merged", ["config.json", "thesis.docx"], "thesis.docx"),
        ("merged", ["config.json", "a-q8_0.gguf"], "a-q8_0.gguf"),
        ("push", REPOSITORY, "a-q8_0.gguf"),
    ],
)
def test_a_folder_is_replaced_whole_only_where_an_export_wrote_it(
    tmp_path, written, names, foreign
):
    folder = filled(tmp_path / "old", names)
    if foreign is None:
        check_output(folder, written, force=True)
        return
    with pytest.raises(ExportError, match=f"'{foreign}' is none of its files"):
        check_output(folder, written, force=True)


def test_only_the_files_that_an_earlier_report_names_are_removed(tmp_path):
    folder = filled(tmp_path / "old", [*REPOSITORY, "other.gguf", "Modelfile"])
    rows = [{"file": "a-q8_0.gguf"}, {"file": "../up.gguf"}]
    (folder / "verification.json").write_text(json.dumps(rows))
    (tmp_path / "up.gguf").write_text("")
    check_output(folder, "gguf", force=True)
    remove_earlier(folder)
    assert {path.name for path in folder.iterdir()} == {*REPOSITORY[:-1], "other.gguf"}
    assert (tmp_path / "up.gguf").exists()
    (folder / "verification.json").write_text("{")
    remove_earlier(folder)  # a damaged report names nothing
    assert (folder / "other.gguf").exists()
    (folder / "verification.json").write_text(json.dumps([{"file": "other.gguf"}]))
    check_output(folder, "push", force=True)


def test_a_folder_that_is_not_there_has_nothing_to_remove(tmp_path):
    remove_earlier(tmp_path / "new")
    assert not (tmp_path / "new").exists()

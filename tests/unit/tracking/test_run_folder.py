from __future__ import annotations

import errno

import pytest

from medimind.config.catalogue import find_recipe
from medimind.config.load import load_recipe
from medimind.errors import AdapterError, ConfigError, MediMindError
from medimind.tracking.run_folder import (
    create_run_folder,
    fingerprint,
    is_run,
    open_run_folder,
    trained_adapter,
    training_settings,
    write_atomically,
)


def starter(tmp_path, *overrides):
    return load_recipe(find_recipe("starter"), overrides=[f"output={tmp_path / 'run'}", *overrides])


def test_the_resolved_recipe_is_kept_and_read_back(tmp_path):
    recipe = starter(tmp_path, "lora.rank=8")
    folder = create_run_folder(recipe)
    opened, again = open_run_folder(folder.path)
    assert again == recipe
    assert opened == folder
    assert [path.name for path in folder.path.iterdir()] == ["recipe.yaml"]


def test_a_folder_of_another_recipe_is_refused_by_key(tmp_path):
    create_run_folder(starter(tmp_path))
    with pytest.raises(ConfigError, match=r"lora\.rank was 16, now 4") as caught:
        create_run_folder(starter(tmp_path, "lora.rank=4"))
    assert "--restart" in str(caught.value)


def test_settings_that_teach_nothing_may_differ(tmp_path):
    create_run_folder(starter(tmp_path))
    create_run_folder(starter(tmp_path, "train.max_hours=1", "evaluation.examples=2"))


def test_the_fingerprint_follows_settings_data_and_weights(tmp_path):
    base = dict(data_sha256="d", model_sha256="m")
    one = fingerprint(starter(tmp_path), **base)
    assert one == fingerprint(starter(tmp_path, "train.log_every=7"), **base)
    others = {
        fingerprint(starter(tmp_path, "train.seed=1"), **base),
        fingerprint(starter(tmp_path), data_sha256="e", model_sha256="m"),
        fingerprint(starter(tmp_path), data_sha256="d", model_sha256="n"),
    }
    assert len(others | {one}) == 4


def test_settings_are_flat_with_list_indices(tmp_path):
    settings = training_settings(starter(tmp_path))
    assert settings["data.sources.0.source"] == "starter"
    assert settings["lora.targets"][0] == "q_proj"
    assert not {"train.log_every", "train.micro_batch_tokens", "train.memory"} & set(settings)


def test_json_is_kept(tmp_path):
    folder = create_run_folder(starter(tmp_path))
    assert folder.read_json("data.json") == {}
    folder.write_json("data.json", {"name": "é"})
    assert folder.read_json("data.json") == {"name": "é"}


def test_damaged_json_is_named_with_its_line(tmp_path):
    folder = create_run_folder(starter(tmp_path))
    (folder.path / "data.json").write_text('{"name":\n"cut')
    with pytest.raises(MediMindError, match="not valid JSON") as caught:
        folder.read_json("data.json")
    assert caught.value.where == f"{folder.path}/data.json:2"


def test_a_full_disk_leaves_no_part_of_a_file(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    path = tmp_path / "report.html"
    write_atomically(path, "old")
    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        write_atomically(path, "new")
    assert [one.name for one in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text() == "old"


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"it has no recipe\.yaml"):
        open_run_folder(tmp_path)
    with pytest.raises(ConfigError, match="no run folder: it does not exist"):
        open_run_folder(tmp_path / "runs")
    assert not is_run(tmp_path)


def test_a_run_without_an_adapter_says_how_to_go_on(tmp_path):
    folder = create_run_folder(starter(tmp_path / "a ward"))
    assert is_run(folder.path)
    with pytest.raises(AdapterError, match="no adapter yet") as caught:
        trained_adapter(folder)
    assert f"medimind run '{folder.recipe}' --resume" in str(caught.value)
    folder.adapter.mkdir()
    assert trained_adapter(folder) == folder.adapter


def test_an_unwritable_folder_is_named(tmp_path):
    blocked = tmp_path / "file"
    blocked.touch()
    recipe = load_recipe(find_recipe("starter"), overrides=[f"output={blocked / 'run'}"])
    with pytest.raises(ConfigError, match="cannot be written"):
        create_run_folder(recipe)

from __future__ import annotations

import json
import logging
import shutil

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from medimind.training.checkpoint import (
    DamagedCheckpointError,
    checkpoint_folder,
    latest_checkpoint,
    list_steps,
    prune_checkpoints,
    replace_folder,
    same_files,
    sweep_leftovers,
    verify_checkpoint,
    write_checkpoint,
)


def fill(folder):
    (folder / "adapter").mkdir()
    (folder / "adapter" / "weights").write_bytes(bytes(range(200)))
    (folder / "state.json").write_text('{"step": 1}')


def make(root, *steps):
    for step in steps:
        write_checkpoint(root, step=step, write=fill)


def test_written_checkpoint_is_whole(tmp_path):
    made = write_checkpoint(tmp_path / "checkpoints", step=20, write=fill)
    assert made.folder.name == "step-000020"
    assert verify_checkpoint(made.folder) == made
    assert latest_checkpoint(tmp_path / "checkpoints") == made
    assert [p.name for p in (tmp_path / "checkpoints").iterdir()] == ["step-000020"]


def test_nothing_there(tmp_path):
    assert latest_checkpoint(tmp_path / "none") is None
    sweep_leftovers(tmp_path / "none")
    assert list_steps(tmp_path / "none") == []


@settings(
    deadline=None, max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.data())
def test_any_changed_bit_is_noticed(tmp_path, data):
    root = tmp_path / "checkpoints"
    shutil.rmtree(root, ignore_errors=True)
    make(root, 10, 20)
    folder = checkpoint_folder(root, 20)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    path = data.draw(st.sampled_from(files))
    whole = path.read_bytes()
    content = bytearray(whole)
    bit = data.draw(st.integers(0, 8 * len(content) - 1))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    try:
        verify_checkpoint(folder)
    except DamagedCheckpointError:
        assert latest_checkpoint(root, warn=False).step == 10
    else:  # white space of the manifest is the one thing that carries nothing
        assert path.name == "manifest.json"
        assert json.loads(content) == json.loads(whole)


@pytest.mark.parametrize(
    "damage",
    [
        lambda f: (f / "manifest.json").unlink(),
        lambda f: (f / "manifest.json").write_bytes(b""),
        lambda f: (f / "manifest.json").write_bytes(b"\xff\xfe\x00"),
        lambda f: (f / "manifest.json").write_text("[]"),
        lambda f: (f / "manifest.json").write_text('{"format": 1, "step": 20, "files": 3}'),
        lambda f: (f / "manifest.json").write_text('{"format": 2}'),
        lambda f: (f / "state.json").unlink(),
        lambda f: (f / "adapter" / "weights").write_bytes(b"short"),
        lambda f: f.rename(f.with_name("step-000030")),
    ],
)
def test_damaged_checkpoint_is_named_and_passed_over(tmp_path, caplog, damage):
    make(tmp_path, 10, 20)
    damage(tmp_path / "step-000020")
    found = latest_checkpoint(tmp_path)
    assert found is not None
    assert found.step == 10
    (record,) = caplog.records
    assert record.levelno == logging.WARNING
    assert "damaged and is passed over" in record.getMessage()
    assert latest_checkpoint(tmp_path, warn=False) == found
    assert len(caplog.records) == 1


def test_name_of_another_kind_is_no_checkpoint(tmp_path):
    (tmp_path / "step-abc").mkdir()
    (tmp_path / "step-000001").write_text("a file")
    assert list_steps(tmp_path) == []
    with pytest.raises(DamagedCheckpointError, match="name"):
        verify_checkpoint(tmp_path / "step-abc")


def test_interrupted_save_leaves_the_one_before(tmp_path):
    make(tmp_path, 10)

    def interrupted(folder):
        (folder / "half").write_text("x")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_checkpoint(tmp_path, step=20, write=interrupted)
    assert latest_checkpoint(tmp_path).step == 10
    assert (tmp_path / ".writing-step-000020").is_dir()
    make(tmp_path, 20)  # a leftover is no obstacle
    assert latest_checkpoint(tmp_path).step == 20
    (tmp_path / ".discarded-step-000001").mkdir()
    (tmp_path / ".writing-step-000001").mkdir()
    sweep_leftovers(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-000010", "step-000020"]


def test_a_checkpoint_is_replaced_as_a_whole(tmp_path):
    make(tmp_path, 10)
    (tmp_path / "step-000010" / "state.json").write_text("damaged")
    (tmp_path / ".discarded-step-000010").mkdir()
    make(tmp_path, 10)
    assert latest_checkpoint(tmp_path).step == 10
    assert len(list(tmp_path.iterdir())) == 1


def test_newest_and_best_are_kept(tmp_path):
    make(tmp_path, 1, 2, 3, 4, 5)
    prune_checkpoints(tmp_path, newest=5, keep=2, keep_steps=[2])
    assert list_steps(tmp_path) == [2, 4, 5]


def test_damaged_ones_ahead_of_a_resumed_run_go(tmp_path):
    make(tmp_path, 10, 20, 40, 60)
    prune_checkpoints(tmp_path, newest=20, keep=2)
    assert list_steps(tmp_path) == [10, 20]


def test_folder_is_replaced_as_a_whole(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    source.mkdir()
    fill(source)
    (tmp_path / ".writing-target").mkdir()
    replace_folder(source, target)
    assert same_files(source, target)
    (target / "extra").write_text("x")
    assert not same_files(source, target)
    replace_folder(source, target)
    assert same_files(source, target)
    assert not same_files(source, tmp_path / "none")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["source", "target"]


def test_everything_reaches_the_disk_before_the_rename(tmp_path, monkeypatch):
    import os
    from pathlib import Path

    events = []
    real_sync, real_rename = os.fsync, Path.rename

    def sync(descriptor):
        events.append(Path(f"/proc/self/fd/{descriptor}").readlink().name)
        return real_sync(descriptor)

    def rename(self, target):
        events.append("rename")
        return real_rename(self, target)

    if not Path("/proc/self/fd").exists():
        pytest.skip("needs /proc to tell which file is synced")
    monkeypatch.setattr(os, "fsync", sync)
    monkeypatch.setattr(Path, "rename", rename)
    make(tmp_path, 7)
    before, after = events[: events.index("rename")], events[events.index("rename") + 1 :]
    assert {"weights", "adapter", "state.json", "manifest.json", ".writing-step-000007"} == set(
        before
    )
    assert after == [tmp_path.name]

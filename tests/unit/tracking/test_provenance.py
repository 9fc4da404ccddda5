from __future__ import annotations

import json
import subprocess

import pytest
import torch

from medimind.tracking import provenance


def test_collects_versions_machine_and_seed():
    found = provenance.collect(seed=7)
    # A CUDA build calls itself 2.13.0+cu130 and is installed as 2.13.0.
    assert torch.__version__.startswith(found["versions"]["torch"])
    assert found["seed"] == 7
    assert found["machine"]["threads"] == torch.get_num_threads()
    assert found["machine"]["cpu"]
    json.dumps(found)


def test_git_commit_and_changes(tmp_path):
    def git(*args):
        subprocess.run(
            ["git", "-c", "user.name=a", "-c", "user.email=a@b.c", *args], cwd=tmp_path, check=True
        )

    assert provenance.git_state(tmp_path) is None
    git("init", "-q")
    (tmp_path / "a").write_text("1")
    git("add", "a")
    git("commit", "-qm", "one")
    state = provenance.git_state(tmp_path)
    assert state is not None
    assert len(state["commit"]) == 40
    assert state["changed"] is False
    (tmp_path / "a").write_text("2")
    assert provenance.git_state(tmp_path)["changed"] is True


@pytest.mark.parametrize("error", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 10)])
def test_no_git_is_no_error(tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(subprocess, "run", fail)
    assert provenance.git_state(tmp_path) is None

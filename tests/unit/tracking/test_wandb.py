from __future__ import annotations

import json

import pytest
import wandb
from wandb_file import read_history, read_records

from medimind.errors import ConfigError
from medimind.tracking import WandbTracker


@pytest.fixture(autouse=True)
def no_account(monkeypatch, tmp_path):
    for name in ("WANDB_API_KEY", "WANDB_IDENTITY_TOKEN_FILE", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "config"))
    monkeypatch.setenv("WANDB_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setenv("WANDB_DATA_DIR", str(tmp_path / "data"))
    monkeypatch.setattr(
        "builtins.input", lambda *_: pytest.fail("W&B asked for something at a prompt")
    )


def files_of(folder):
    """W&B's files, once its service, which writes them behind our back, has ended."""
    wandb.teardown()
    return sorted(folder.rglob("*.wandb"))


def test_offline_file_holds_loss_rate_norm_and_table(tmp_path):
    folder = tmp_path / "run"
    tracker = WandbTracker(
        folder,
        mode="offline",
        project="medimind",
        run_name="starter",
        tags=["cpu"],
        recipe={"train": {"learning_rate": 2e-4}},
    )
    for step in (1, 2):
        tracker.log(
            {
                "train/loss": 2.5 / step,
                "train/learning_rate": 1e-4 * step,
                "train/gradient_norm": 0.75,
            },
            step=step,
        )
    tracker.log_table("before_after", columns=["case", "loss"], rows=[["c1", 1.5], ["c2", None]])
    tracker.finish({"held_out_loss": 1.25})

    (path,) = files_of(folder)
    rows = read_history(path)
    first = {k: v for k, v in rows[0].items() if not k.startswith("_")}
    assert first == {
        "step": 1,
        "train/loss": 2.5,
        "train/learning_rate": 1e-4,
        "train/gradient_norm": 0.75,
    }
    assert rows[1]["train/loss"] == 1.25
    assert any("before_after" in row for row in rows)
    (table,) = folder.rglob("*.table.json")
    assert json.loads(table.read_text())["data"] == [["c1", "1.5"], ["c2", ""]]
    records = read_records(path)
    run = next(r.run for r in records if r.WhichOneof("record_type") == "run")
    assert (run.display_name, run.project, list(run.tags)) == ("starter", "medimind", ["cpu"])
    config = {item.key: item.value_json for item in run.config.update}
    assert json.loads(config["train"]) == {"learning_rate": 2e-4}
    assert not run.git.commit


def test_resumed_run_keeps_its_id_and_a_new_run_does_not(tmp_path):
    def run(resume_step):
        tracker = WandbTracker(
            tmp_path / "run", mode="offline", project="p", resume_step=resume_step
        )
        tracker.log({"train/loss": 1.0}, step=resume_step + 1)
        tracker.finish({})
        return (tmp_path / "run" / "wandb_id").read_text().strip()

    first = run(0)
    assert run(5) == first
    assert run(0) != first
    ids = [
        next(r.run.run_id for r in read_records(path) if r.WhichOneof("record_type") == "run")
        for path in files_of(tmp_path / "run")
    ]
    assert sorted({*ids}) == sorted({first, (tmp_path / "run" / "wandb_id").read_text().strip()})


def test_online_without_a_key_fails_without_a_prompt(tmp_path, monkeypatch):
    monkeypatch.setattr(wandb, "init", lambda **_: pytest.fail("W&B was started"))
    with pytest.raises(ConfigError, match=r"WANDB_API_KEY.*offline"):
        WandbTracker(tmp_path, mode="online", project="p")


def test_online_resume_continues_the_run_of_that_id(tmp_path, monkeypatch):
    seen = {}

    class Run:
        def define_metric(self, *_, **__): ...

    def init(**options):
        seen.update(options)
        return Run()

    monkeypatch.setattr(wandb, "init", init)
    monkeypatch.setenv("WANDB_API_KEY", "k" * 40)
    (tmp_path / "wandb_id").write_text("abc123\n")
    WandbTracker(tmp_path, mode="online", project="p", resume_step=3)
    assert (seen["id"], seen["resume"], seen["settings"].mode) == ("abc123", "allow", "online")

from __future__ import annotations

import builtins
import json
import logging
import os
import subprocess
import sys

import pytest

from medimind.config import TrackingConfig
from medimind.errors import MissingExtraError
from medimind.tracking import (
    ConsoleTracker,
    JsonlTracker,
    MultiTracker,
    TensorboardTracker,
    WandbTracker,
    build_trackers,
    read_metrics,
)
from medimind.tracking.jsonl import truncate_metrics


class Broken:
    def log(self, metrics, *, step):
        raise OSError("disk full")

    def log_table(self, name, *, columns, rows):
        raise OSError("disk full")

    def finish(self, summary):
        raise OSError("disk full")


class Recorder:
    def __init__(self):
        self.rows, self.tables, self.summary = [], [], None

    def log(self, metrics, *, step):
        self.rows.append((step, dict(metrics)))

    def log_table(self, name, *, columns, rows):
        self.tables.append((name, list(columns), rows))

    def finish(self, summary):
        self.summary = dict(summary)


@pytest.fixture
def without_package(monkeypatch):
    def block(name):
        real = builtins.__import__

        def refuse(module, *args, **kwargs):
            if module == name or module.startswith(name + "."):
                raise ImportError(module)
            return real(module, *args, **kwargs)

        monkeypatch.setattr(builtins, "__import__", refuse)

    return block


def test_jsonl_rows_are_there_at_once(tmp_path):
    path = tmp_path / "run" / "metrics.jsonl"
    tracker = JsonlTracker(path)
    tracker.log({"train/loss": 1.5}, step=1)
    assert read_metrics(path) == [{"step": 1, "train/loss": 1.5}]
    tracker.log_table("t", columns=["a"], rows=[["é"], [None]])
    tracker.finish({"seconds": 2.0})
    assert read_metrics(path)[1:] == [
        {"table": "t", "columns": ["a"], "rows": [["é"], [None]]},
        {"summary": {"seconds": 2.0}},
    ]


def test_jsonl_resumed_reads_as_never_interrupted(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tracker = JsonlTracker(path)
    for step in range(1, 6):
        tracker.log({"train/loss": 0.1 * step}, step=step)
    before = path.read_bytes().splitlines(keepends=True)[:3]
    with path.open("ab") as file:
        file.write(b'{"step": 6, "train/lo')
    resumed = JsonlTracker(path, resume_step=3)
    assert path.read_bytes() == b"".join(before)
    resumed.log({"train/loss": 0.4}, step=4)
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3, 4]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("damage", [b"\x00\xff\n", b"[1]\n", b'{"step": "x"}\n', b"\n\n"])
def test_truncation_drops_damaged_lines(tmp_path, damage):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(b'{"step": 1}\n' + damage + b'{"step": 2}\n')
    truncate_metrics(path, last_step=2)
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_jsonl_new_run_starts_empty(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1}\n')
    JsonlTracker(path)
    assert path.read_bytes() == b""


def test_console_shows_every_tenth_step_and_held_out_losses(caplog):
    caplog.set_level(logging.INFO)
    tracker = ConsoleTracker(every=10)
    for step in range(1, 21):
        tracker.log({"train/loss": 2.0, "train/learning_rate": 1e-4}, step=step)
    tracker.log({"held_out/loss": 1.25}, step=27)
    tracker.log_table("before_after", columns=["text"], rows=[["patient text"]])
    tracker.finish({"steps": 20})
    lines = [record.getMessage() for record in caplog.records]
    assert lines[:3] == [f"step {s}: loss 2.0000, lr 0.0001" for s in (1, 10, 20)]
    assert lines[3] == "step 27: held-out loss 1.2500"
    assert "patient text" not in caplog.text
    assert "steps 20" in lines[-1]


def test_console_shows_rows_that_miss_the_tens(caplog):
    caplog.set_level(logging.INFO)
    tracker = ConsoleTracker(every=10)
    for step in (7, 14, 21, 28, 35):
        tracker.log({"train/loss": 2.0}, step=step)
    assert [r.getMessage().split(":")[0] for r in caplog.records] == [
        "step 7",
        "step 14",
        "step 21",
        "step 35",
    ]


def test_failing_tracker_is_named_once_and_counted(caplog):
    good = Recorder()
    tracker = MultiTracker([Broken(), good])
    for step in (1, 2):
        tracker.log({"train/loss": 1.0}, step=step)
    tracker.log_table("t", columns=[], rows=[])
    tracker.finish({"steps": 2})
    assert [r.getMessage() for r in caplog.records] == [
        "Broken failed and may miss figures of this run (OSError: disk full); training goes on"
    ]
    assert len(good.rows) == 2
    assert good.summary == {"steps": 2, "tracking_failures/Broken": 3}
    assert tracker.failures == {"Broken": 4}


def test_interrupt_passes_through_trackers():
    class Interrupted(Broken):
        def log(self, metrics, *, step):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        MultiTracker([Interrupted()]).log({}, step=1)


@pytest.mark.parametrize(
    ("package", "make"),
    [
        ("wandb", lambda folder: WandbTracker(folder, mode="offline", project="p")),
        ("torch.utils.tensorboard", TensorboardTracker),
    ],
)
def test_missing_package_names_the_install_command(tmp_path, without_package, package, make):
    without_package(package)
    with pytest.raises(MissingExtraError, match=r"pip install 'medimind\["):
        make(tmp_path)


def test_wandb_keeps_its_log_off_the_terminal_where_no_home_takes_it(tmp_path):
    environment = {name: text for name, text in os.environ.items() if not name.startswith("XDG_")}
    environment["HOME"] = "/proc"  # takes no folder, from root neither
    code = (
        "import sys; from pathlib import Path; from medimind.tracking.wandb import WandbTracker;"
        "tracker = WandbTracker(Path(sys.argv[1]), mode='offline', project='p');"
        "tracker.log({'loss': 1.0}, step=1); tracker.finish({})"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        env=environment,
        capture_output=True,
        encoding="utf-8",
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_tensorboard_file_holds_what_was_logged(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker = TensorboardTracker(tmp_path)
    for step in (1, 2):
        tracker.log({"train/loss": 1.0 / step, "train/learning_rate": 2e-4}, step=step)
    tracker.log_table("before_after", columns=["case", "text"], rows=[["a|b", "x\ny"], ["c", None]])
    tracker.finish({"seconds": 1.5})
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1.0), (2, 0.5)]
    assert events.Scalars("train/learning_rate")[0].value == pytest.approx(2e-4)
    tag = next(tag for tag in events.Tags()["tensors"] if "before_after" in tag)
    text = events.Tensors(tag)[0].tensor_proto.string_val[0].decode()
    assert text.splitlines()[2:] == ["| a\\|b | x<br>y |", "| c |  |"]


def test_tensorboard_resumed_hides_what_is_trained_again(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    first = TensorboardTracker(tmp_path)
    for step in (1, 2, 3):
        first.log({"train/loss": 1.0}, step=step)
    again = TensorboardTracker(tmp_path, resume_step=1)
    again.log({"train/loss": 2.0}, step=2)
    again.finish({})
    events = EventAccumulator(str(tmp_path))
    events.Reload()
    assert [(e.step, e.value) for e in events.Scalars("train/loss")] == [(1, 1.0), (2, 2.0)]


def test_build_reports_a_tracker_that_cannot_start(tmp_path, monkeypatch, caplog):
    import wandb

    def fail(**_):
        raise wandb.errors.CommError("no route to host")

    monkeypatch.setattr(wandb, "init", fail)
    config = TrackingConfig.model_validate({"wandb": {"mode": "offline"}})
    extra = Recorder()
    tracker = build_trackers(config, tmp_path, run_name="r", recipe={}, extra=(extra,))
    tracker.log({"train/loss": 1.0}, step=1)
    tracker.finish({})
    assert "WandbTracker failed" in caplog.text
    assert extra.summary == {"tracking_failures/WandbTracker": 1}


def test_build_makes_what_the_recipe_asks_for(tmp_path):
    plain = build_trackers(TrackingConfig(), tmp_path / "a", run_name="r", recipe={})
    plain.log({"train/loss": 1.0}, step=1)
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["metrics.jsonl"]
    board = build_trackers(
        TrackingConfig(tensorboard=True), tmp_path / "b", run_name="r", recipe={}
    )
    board.log({"train/loss": 1.0}, step=1)
    board.finish({})
    assert list((tmp_path / "b" / "tensorboard").iterdir())
    row = json.loads((tmp_path / "b" / "metrics.jsonl").read_text().splitlines()[0])
    assert row == {"step": 1, "train/loss": 1.0}

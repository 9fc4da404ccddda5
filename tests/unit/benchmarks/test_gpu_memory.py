"""The benchmark that holds the plan to measured peaks, as far as it goes without a card."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

ROOT = Path(__file__).resolve().parents[3]
RESULTS = ROOT / "benchmarks/results/gpu_memory.json"
GIB = 1 << 30


@pytest.fixture
def bench(monkeypatch):
    """Its modules."""
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    import gpu_memory
    import gpu_room
    import gpu_settings
    import gpu_tests

    return SimpleNamespace(memory=gpu_memory, room=gpu_room, settings=gpu_settings, tests=gpu_tests)


def _rows():
    report = json.loads(RESULTS.read_text())
    return [row for part in ("settings", "cards") for row in report.get(part, [])]


def _counted(row, shapes):
    """The prediction of today for a row that was measured."""
    from medimind.kernels.attention.footprint import Card
    from medimind.models.fused.memory import memory_need
    from medimind.models.fused.plan import StepPlan
    from medimind.models.fused.workload import Workload

    work = dict(row["counted_as"]["work"])
    work["cards"] = tuple(
        Card(tuple(card["capability"]), card["multiprocessors"]) for card in work["cards"]
    )
    if "targets" in work:
        work["targets"] = tuple(work["targets"])
    plan = StepPlan(**row["counted_as"]["plan"])
    return memory_need(Workload(shapes[row["model"]], **work), plan).total / GIB


def test_every_measured_peak_is_within_what_is_counted_today(bench):
    module = bench.settings
    shapes = {"8B": module.R1_DISTILL_LLAMA_8B}
    for shape, _, _ in module.OTHERS:
        shapes[f"{shape.family}, width {shape.hidden_size}"] = shape
    rows = [row for row in _rows() if "counted_as" in row and "measured_gib" in row]
    assert len(rows) >= 20
    for row in rows:
        # Half a percent is within what CUDA's libraries change; 8 % of a card stay free.
        ratio = _counted(row, shapes) / row["measured_gib"]
        assert 0.995 <= ratio <= 1.05, (row["model"], row["tokens"], row["plan"])


@pytest.mark.parametrize("group", ["dense", "lean", "others", "cards", "long", "attention"])
def test_every_group_runs_over_a_tiny_shape(bench, monkeypatch, capsys, group):
    module = bench.settings
    tiny = replace(module.TINY, num_layers=3)
    monkeypatch.setattr(module, "R1_DISTILL_LLAMA_8B", tiny)
    monkeypatch.setattr(
        module, "OTHERS", [(tiny, nf4, _few(setting)) for _, nf4, setting in module.OTHERS]
    )
    for name in ("DENSE", "FEW"):
        monkeypatch.setattr(module, name, [_few(s) for s in getattr(module, name)[::6]])
    cards = [(size, replace(setting, tokens=96)) for size, setting in module.CARDS[:4]]
    monkeypatch.setattr(module, "CARDS", cards)
    monkeypatch.setattr(module, "choose_tokens", lambda work, limits, **options: 192)
    monkeypatch.setattr(module, "DEVICE", "cpu")
    card = SimpleNamespace(total_memory=80 * GIB)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: card)
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", lambda share: None)
    monkeypatch.setattr(module, "_as_on_turing", _nothing)
    arguments = ["gpu_settings.py", group, "--long-tokens", "192", "--long-steps", "1"]
    monkeypatch.setattr(sys, "argv", arguments)
    module.main()
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    expected = {
        "dense": len(module.DENSE),
        "lean": len(module.FEW),
        "others": len(module.OTHERS),
        "cards": len(module.CARDS),
        "long": 1,
        "attention": len(module.HERE),
    }
    assert len(rows) == expected[group]
    # Neither fp8 nor 8-bit AdamW is to be had here.
    allowed = ("no fp8", "bitsandbytes", "fp8")
    assert all(any(a in row["error"] for a in allowed) for row in rows if "error" in row)
    assert any("error" not in row for row in rows)


@contextmanager
def _nothing():
    yield


def _few(setting):
    plan = replace(setting.plan, graph=False, mlp_chunk=setting.plan.mlp_chunk and 64)
    return replace(setting, tokens=192, plan=plan)


def test_a_group_that_fails_says_why(bench):
    child = bench.memory.begin("broken", "-c", "print('{}'); raise SystemExit('no card')")
    assert child.rows() == [{}, {"group": "broken", "error": "exit status 1: no card\n"}]
    child = bench.memory.begin("endless", "-c", "import threading; threading.Event().wait()")
    (row,) = child.rows(patience=0.2)
    assert "none within" in row["error"]


def test_processes_wait_until_the_card_has_room(bench, tmp_path):
    room = bench.room.Room(tmp_path / "room", total=10, patience=0.0)
    room.note(1, 6)
    assert room.take(4)
    assert not room.take(5, meanwhile=2)
    assert json.loads(room.file.read_text()) == {"1": 6, str(os.getpid()): 2}
    room.leave(1)
    assert room.take(10)


def test_peers_packages_are_not_on_the_tests_path(bench, monkeypatch, tmp_path):
    """transformers imports torchao where it finds one; its warning kept all tests from starting."""
    (tmp_path / "peers/unsloth").mkdir(parents=True)
    (tmp_path / "site").mkdir()
    folders = [str(tmp_path / name) for name in ("peers", "site")]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(folders))
    environment = bench.tests.tests_environment()
    assert environment["PYTHONPATH"] == folders[1]
    assert environment["PATH"] == os.environ["PATH"]


def test_a_module_that_warns_when_compiled_stops_no_test(bench, monkeypatch, tmp_path):
    (tmp_path / "careless.py").write_text('"""Like torchao\'s \\. in a docstring."""\n')
    (tmp_path / "test_it.py").write_text("import careless\n\n\ndef test_it():\n    pass\n")
    (tmp_path / "pytest.ini").write_text("[pytest]\nfilterwarnings = error\n")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    kept = bench.tests.WARNINGS_OF_OTHERS
    environment = {**os.environ, "PYTHONDONTWRITEBYTECODE": "1"}
    environment["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"
    place = {"cwd": tmp_path, "env": environment, "capture_output": True}
    assert subprocess.run(command, check=False, **place).returncode != 0
    assert subprocess.run([*command, *kept], check=False, **place).returncode == 0


def test_trying_publishes_nothing(bench, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["gpu_memory.py", "--try"])
    with pytest.raises(SystemExit):
        bench.memory.main()
    assert "set --out" in capsys.readouterr().err
    monkeypatch.setattr(
        sys, "argv", ["gpu_memory.py", "--parts", "load", "--checkpoint", "no/such/folder"]
    )
    with pytest.raises(SystemExit):
        bench.memory.main()
    assert "tokenizer.json" in capsys.readouterr().err

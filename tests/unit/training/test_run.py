from __future__ import annotations

import json
import logging
import math
import os
import signal

import pytest
import torch
from tiny_training import Recorder, adapter_bytes, make_config, make_model, make_prompts, run

from medimind.errors import NonFiniteError, PackingError, ResumeError, TrainingError
from medimind.models.lora import lora_parameters
from medimind.tracking import JsonlTracker, read_metrics
from medimind.training import compute, loop, planned_steps, resume_step
from medimind.training.checkpoint import checkpoint_folder, list_steps
from medimind.training.stop import TimeLimit


class Killed(BaseException):
    """Stands for a process that ends without a word."""


def kill_at(step):
    def on_log(now):
        if now == step:
            raise Killed

    return on_log


def killed_run(folder, step, **options):
    with pytest.raises(Killed):
        run(folder, tracker=Recorder(kill_at(step)), **options)


def values(model):
    return {n: p.detach().clone() for n, p in lora_parameters(model.decoder).items()}


def without_clock(rows):
    clocked = ("train/tokens_per_second", "train/peak_memory_gib")
    return [{k: v for k, v in row.items() if k not in clocked} for row in rows]


def test_loss_falls_and_the_adapter_is_published(tmp_path):
    model, tracker = make_model(), Recorder()
    result = run(tmp_path, model=model, tracker=tracker, config=make_config(steps=40))
    losses = [row["train/loss"] for row in tracker.rows]
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert (result.final_step, result.finished, result.stop_reason) == (40, True, "completed")
    assert result.adapter_step == 40
    assert list(result.history) == tracker.rows
    checkpoint = checkpoint_folder(tmp_path / "checkpoints", 40) / "adapter"
    assert adapter_bytes(checkpoint.parent) == adapter_bytes(tmp_path)
    assert not model.decoder.training


def test_rows_hold_the_promised_figures(tmp_path):
    tracker = Recorder()
    run(tmp_path, tracker=tracker, config=make_config(steps=4), held_out=make_prompts(3, seed=5))
    assert [row["step"] for row in tracker.rows] == [1, 2, 3, 4]
    assert [row["train/learning_rate"] for row in tracker.rows] == [0.0, 0.005, 0.01, 0.005]
    assert [row["train/epoch"] for row in tracker.rows] == pytest.approx([1 / 3, 2 / 3, 1, 4 / 3])
    for row in tracker.rows:
        assert row["train/gradient_norm"] > 0
        assert row["train/tokens_per_second"] > 0
        assert row["train/target_tokens"] > 0
        assert row["train/peak_memory_gib"] > 0
        assert ("held_out/loss" in row) == (row["step"] == 4)
        assert "train/loss_scale" not in row


def test_log_every_thins_the_rows_but_keeps_the_last(tmp_path):
    tracker = Recorder()
    config = make_config(steps=7, log_every=3, evaluate_every=4)
    run(tmp_path, tracker=tracker, config=config, held_out=make_prompts(3, seed=5))
    assert [row["step"] for row in tracker.rows] == [3, 4, 6, 7]
    assert list(tracker.rows[1]) == ["step", "held_out/loss"]


@pytest.mark.parametrize("dropout", [0.0, 0.3])
@pytest.mark.parametrize("step", [1, 4, 8])
def test_resumed_run_is_bit_identical(tmp_path, dropout, step):
    config = make_config(evaluate_every=2, keep_best=True)
    held_out = make_prompts(4, seed=5)
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    options = {"config": config, "held_out": held_out}
    expected = run(whole, model=make_model(dropout=dropout), **options)
    killed_run(cut, step, model=make_model(dropout=dropout), **options)
    torch.randn(step)  # the global generator's state plays no part
    model = make_model(dropout=dropout)
    result = run(cut, model=model, resume=True, **options)
    assert adapter_bytes(cut) == adapter_bytes(whole)
    last = "checkpoints/step-000008/optimizer.safetensors"
    assert (cut / last).read_bytes() == (whole / last).read_bytes()
    assert without_clock(result.history) == without_clock(expected.history)
    assert result.held_out_losses == expected.held_out_losses
    assert (result.num_tokens, result.num_targets) == (expected.num_tokens, expected.num_targets)
    assert result.resumed_from == {1: 0, 4: 3, 8: 6}[step]


def test_dropout_is_on_while_training_only(tmp_path):
    plain, dropped = tmp_path / "a", tmp_path / "b"
    options = {"config": make_config(steps=2), "held_out": make_prompts(2, seed=5)}
    first = run(plain, model=make_model(), **options)
    second = run(dropped, model=make_model(dropout=0.5), **options)
    assert adapter_bytes(plain) != adapter_bytes(dropped)
    assert first.held_out_losses != second.held_out_losses
    again = run(tmp_path / "c", model=make_model(dropout=0.5), **options)
    assert again.held_out_losses == second.held_out_losses


def test_metrics_file_reads_as_never_interrupted(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    run(whole, tracker=JsonlTracker(whole / "metrics.jsonl"))

    class Fragile(JsonlTracker):
        def log(self, metrics, *, step):
            super().log(metrics, step=step)
            if step == 5:
                raise Killed

    with pytest.raises(Killed):
        run(cut, tracker=Fragile(cut / "metrics.jsonl"))
    step = resume_step(cut)
    assert step == 3
    tracker = JsonlTracker(cut / "metrics.jsonl", resume_step=step)
    run(cut, tracker=tracker, resume=True)
    rows = [read_metrics(folder / "metrics.jsonl") for folder in (whole, cut)]
    assert without_clock(rows[0]) == without_clock(rows[1])


def test_damaged_checkpoint_is_passed_over_and_the_result_is_the_same(
    tmp_path, uninterrupted, caplog
):
    killed_run(tmp_path, 8)
    assert list_steps(tmp_path / "checkpoints") == [3, 6]
    path = tmp_path / "checkpoints" / "step-000006" / "optimizer.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 4
    path.write_bytes(content)
    result = run(tmp_path, resume=True)
    assert result.resumed_from == 3
    assert "step-000006 is damaged" in caplog.text
    assert adapter_bytes(tmp_path) == adapter_bytes(uninterrupted[0])
    assert list_steps(tmp_path / "checkpoints") == [6, 8]


def test_all_checkpoints_damaged_starts_over_with_a_note(tmp_path, uninterrupted, caplog):
    caplog.set_level(logging.INFO)
    killed_run(tmp_path, 5)
    (tmp_path / "checkpoints" / "step-000003" / "manifest.json").write_bytes(b"\0")
    assert run(tmp_path, resume=True).resumed_from == 0
    assert "no sound checkpoint to resume" in caplog.text
    assert adapter_bytes(tmp_path) == adapter_bytes(uninterrupted[0])


def test_resume_from_nothing_starts_at_zero_with_a_note(tmp_path, uninterrupted, caplog):
    caplog.set_level(logging.INFO)
    assert run(tmp_path, resume=True).resumed_from == 0
    assert "no checkpoint to resume" in caplog.text
    assert adapter_bytes(tmp_path) == adapter_bytes(uninterrupted[0])


def test_finished_run_that_is_run_again_does_nothing(uninterrupted, caplog):
    folder, first = uninterrupted
    caplog.set_level(logging.INFO)
    before = {p: p.stat().st_mtime_ns for p in folder.rglob("*")}
    for resume in (True, False):
        model, tracker = make_model(), Recorder()
        result = run(folder, model=model, tracker=tracker, resume=resume)
        assert (result.already_finished, result.final_step) == (True, first.final_step)
        assert result.history == first.history
        assert tracker.rows == []
        assert any(v.abs().max() > 0 for n, v in values(model).items() if "lora_B" in n)
    assert "nothing to do" in caplog.text
    assert {p: p.stat().st_mtime_ns for p in folder.rglob("*")} == before


def test_adapter_missing_after_a_kill_is_put_back(tmp_path, uninterrupted):
    run(tmp_path)
    (tmp_path / "adapter" / "adapter_model.safetensors").unlink()
    assert run(tmp_path).already_finished
    assert adapter_bytes(tmp_path) == adapter_bytes(uninterrupted[0])


def test_unfinished_run_is_not_overwritten_unasked(tmp_path):
    killed_run(tmp_path, 5)
    with pytest.raises(ResumeError, match=r"ended at step 3.*--resume"):
        run(tmp_path)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"config": make_config(learning_rate=2e-2)}, "train.learning_rate was 0.01, now 0.02"),
        ({"config": make_config(steps=9)}, "train.steps was 8, now 9"),
        ({"config": make_config(seed=1)}, "train.seed was 3407, now 1"),
        ({"train": make_prompts(13)}, "training cases was 12, now 13"),
        ({"train": make_prompts(seed=2)}, "hash of training cases was"),
        ({"weights": [2.0] * 12}, "hash of training cases was"),
        ({"held_out": make_prompts(2)}, "hash of held-out cases was"),
        (
            {"fingerprint": "0" * 64},
            "model, data or prompt settings (fingerprint ffffffffffff, now",
        ),
    ],
)
def test_resuming_another_run_says_what_differs(uninterrupted, options, expected):
    with pytest.raises(ResumeError) as caught:
        run(uninterrupted[0], resume=True, **options)
    assert expected in str(caught.value)


def test_settings_that_teach_nothing_may_differ(tmp_path, monkeypatch, caplog):
    killed_run(tmp_path, 5)
    config = make_config(log_every=2, checkpoint_every=1, keep_checkpoints=1, max_hours=5)
    monkeypatch.setattr(torch, "__version__", "9.9.0")
    assert run(tmp_path, config=config, resume=True).finished
    assert "-> 9.9.0): results may differ in their last bits" in caplog.text
    assert list_steps(tmp_path / "checkpoints") == [8]


@pytest.mark.parametrize("change", [{"micro_batch_tokens": 24}, {"memory": "offload"}], ids=str)
def test_a_run_goes_on_with_less_memory(tmp_path, uninterrupted, caplog, change):
    killed_run(tmp_path, 5)
    result = run(tmp_path, config=make_config(**change), resume=True)
    losses = [row["train/loss"] for row in result.history]
    assert losses == pytest.approx([r["train/loss"] for r in uninterrupted[1].history], rel=1e-5)
    (key,) = change
    assert f"{key} " in caplog.text
    assert "may differ in their last bits" in caplog.text


def test_what_decides_the_last_bits_on_a_card_is_noted(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    monkeypatch.setattr(compute, "has_flash4", lambda: True)
    found = compute.computed_by(torch.device("cuda"))
    assert (found["device"], found["flash-attn-4"]) == ("a card", "4.0.0b36")
    assert compute.computed_by(torch.device("cpu"))["device"] == "cpu"


def test_state_of_another_version_is_an_error(tmp_path):
    from medimind.training.checkpoint import write_checkpoint

    def write(folder):
        (folder / "state.json").write_text('{"format": 99}')

    write_checkpoint(tmp_path / "checkpoints", step=3, write=write)
    with pytest.raises(ResumeError, match=r"state\.json: the state cannot be read: .*version"):
        run(tmp_path, resume=True)


@pytest.mark.parametrize(
    "text", ["[]", "{", '{"format": 1}', '{"format": 1, "fingerprint": "", "settings": {}}', "\0"]
)
def test_unreadable_state_is_an_error(text):
    from medimind.training.state import state_from_json

    with pytest.raises(ValueError):
        state_from_json(text)


def test_adapter_of_another_shape_is_an_error(tmp_path):
    from medimind.models.lora import attach_lora

    killed_run(tmp_path, 5)
    other = make_model()
    other.decoder = type(other.decoder)(other.decoder.architecture)
    attach_lora(other.decoder, rank=2, alpha=8, seed=1)
    with pytest.raises(ResumeError, match=r"has shape \(4, 32\), the adapter wants \(2, 32\)"):
        run(tmp_path, model=other, resume=True)
    fewer = make_model()
    fewer.decoder = type(other.decoder)(other.decoder.architecture)
    attach_lora(fewer.decoder, rank=4, alpha=8, targets=["q_proj"], seed=1)
    with pytest.raises(ResumeError, match="28 tensors are saved, the adapter has 4"):
        run(tmp_path, model=fewer, resume=True)
    lacking = make_model()
    parameters = dict(lora_parameters(lacking.decoder))
    from medimind.training.tensors import load_adapter_values

    parameters["extra"] = next(iter(parameters.values()))
    with pytest.raises(ResumeError, match="extra is missing"):
        load_adapter_values(tmp_path / "checkpoints" / "step-000003" / "adapter", parameters)
    with pytest.raises(ResumeError, match="cannot be read"):
        load_adapter_values(tmp_path, parameters)


def test_best_adapter_is_kept_and_loaded(tmp_path):
    model = make_model()
    held_out = make_prompts(4, seed=5)
    config = make_config(steps=30, evaluate_every=1, keep_best=True, keep_checkpoints=1)
    result = run(tmp_path, model=model, config=config, held_out=held_out)
    losses = dict(result.held_out_losses)
    assert result.best_step == min(losses, key=lambda step: losses[step])
    assert result.adapter_step == result.best_step != 30
    assert list_steps(tmp_path / "checkpoints") == sorted({result.best_step, 30})
    best = checkpoint_folder(tmp_path / "checkpoints", result.best_step)
    assert adapter_bytes(best) == adapter_bytes(tmp_path)
    saved = values(model)
    again = make_model()
    assert run(tmp_path, model=again, config=config, held_out=held_out).already_finished
    assert all(torch.equal(saved[n], v) for n, v in values(again).items())


def test_damaged_best_checkpoint_is_said_and_the_last_is_taken(tmp_path, caplog):
    options = {
        "config": make_config(steps=12, evaluate_every=1, keep_best=True),
        "held_out": make_prompts(4, seed=5),
    }
    result = run(tmp_path, **options)
    assert result.best_step != 12
    best = checkpoint_folder(tmp_path / "checkpoints", result.best_step)
    (best / "state.json").write_text("x")
    assert run(tmp_path, **options).adapter_step == 12
    assert "the adapter of step 12 is taken" in caplog.text


def test_last_adapter_is_taken_without_keep_best(tmp_path):
    result = run(
        tmp_path,
        config=make_config(steps=12, evaluate_every=1),
        held_out=make_prompts(4, seed=5),
    )
    assert result.best_step != 12
    assert result.adapter_step == 12


def test_early_stopping_waits_for_its_patience(tmp_path):
    config = make_config(steps=60, evaluate_every=1, early_stopping_patience=3, keep_best=True)
    result = run(tmp_path, config=config, held_out=make_prompts(4, seed=5))
    assert (result.stop_reason, result.finished) == ("early_stopping", True)
    assert result.final_step < 60
    assert result.final_step == result.best_step + 3
    assert result.adapter_step == result.best_step
    again = run(tmp_path, config=config, held_out=make_prompts(4, seed=5))
    assert (again.already_finished, again.stop_reason) == (True, "early_stopping")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_ends_after_the_step_and_resume_goes_on(tmp_path, uninterrupted, number):
    def on_log(step):
        if step == 4:
            os.kill(os.getpid(), number)

    result = run(tmp_path, tracker=Recorder(on_log))
    assert (result.final_step, result.finished, result.stop_reason) == (4, False, "signal")
    assert result.adapter_step is None
    assert not (tmp_path / "adapter").exists()
    assert list_steps(tmp_path / "checkpoints") == [3, 4]
    assert run(tmp_path, resume=True).resumed_from == 4
    assert adapter_bytes(tmp_path) == adapter_bytes(uninterrupted[0])


def test_time_limit_saves_and_ends_before_it(tmp_path, uninterrupted, monkeypatch):
    clock = [0.0]

    class Fake(TimeLimit):
        def __init__(self, hours, *, started):
            super().__init__(hours, started=started, clock=lambda: clock[0])

        def note(self, what, seconds):
            super().note(what, {"step": 600.0, "save": 60.0}.get(what, 0.0))

    def on_log(step):
        clock[0] += 600

    from medimind.training import run as module

    monkeypatch.setattr(module, "TimeLimit", Fake)
    config = make_config(max_hours=1)
    result = run(tmp_path, config=config, tracker=Recorder(on_log))
    # After step 4 (2400 s) a step (600 s) and two saves (120 s) fit; after step 5 they do not.
    assert (result.final_step, result.finished, result.stop_reason) == (5, False, "time_limit")
    assert resume_step(tmp_path) == 5
    clock[0] = 0
    again = run(tmp_path, config=config, resume=True)
    assert (again.finished, again.resumed_from) == (True, 5)
    assert adapter_bytes(tmp_path) == adapter_bytes(uninterrupted[0])


def test_time_counts_from_where_the_caller_says(tmp_path):
    import time

    result = run(tmp_path, config=make_config(max_hours=1), started=time.monotonic() - 3700)
    assert (result.final_step, result.stop_reason) == (1, "time_limit")


def test_non_finite_loss_writes_nothing_bad(tmp_path, monkeypatch):
    real = loop.training_loss
    count = []

    def poisoned(decoder, *, num_tokens, **options):
        loss_sum = real(decoder, num_tokens=num_tokens)

        def loss(batch):
            count.append(1)
            return loss_sum(batch) * (math.nan if len(count) > 20 else 1.0)

        return loss

    config = make_config(steps=20, micro_batch_tokens=32)
    monkeypatch.setattr(loop, "training_loss", poisoned)
    tracker = Recorder()
    with pytest.raises(NonFiniteError, match=r"step \d+, micro-batch \d of \d, cases case-"):
        run(tmp_path, config=config, tracker=tracker)
    steps = list_steps(tmp_path / "checkpoints")
    assert steps
    assert max(steps) <= len(tracker.rows) < 20
    assert not (tmp_path / "adapter").exists()
    monkeypatch.setattr(loop, "training_loss", real)
    result = run(tmp_path, config=config, resume=True)
    clean = tmp_path / "clean"
    run(clean, config=config)
    assert result.finished
    assert adapter_bytes(clean) == adapter_bytes(tmp_path)


def test_adapter_that_is_not_finite_is_not_saved(tmp_path):
    model = make_model()

    def on_log(step):
        if step == 2:
            with torch.no_grad():
                next(iter(lora_parameters(model.decoder).values()))[0, 0] = math.inf

    with pytest.raises(TrainingError, match=r"step 2: .*lora_A.weight is no longer finite"):
        run(tmp_path, model=model, config=make_config(steps=2), tracker=Recorder(on_log))
    assert list_steps(tmp_path / "checkpoints") == []


def test_full_disk_is_an_error_and_the_checkpoint_before_is_sound(tmp_path, monkeypatch):
    from medimind.training import resume

    real = resume.save_optimizer
    count = []

    def full(path, optimizer, *, parameters):
        count.append(1)
        if len(count) == 2:
            raise OSError(28, "No space left on device")
        real(path, optimizer, parameters=parameters)

    monkeypatch.setattr(resume, "save_optimizer", full)
    with pytest.raises(TrainingError, match=r"step 6 cannot be written.*No space left"):
        run(tmp_path)
    assert resume_step(tmp_path) == 3
    run(tmp_path, resume=True)
    assert not list((tmp_path / "checkpoints").glob(".*"))


def test_adapter_that_cannot_be_published_is_an_error(tmp_path, monkeypatch):
    from medimind.training import resume

    def full(source, target):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(resume, "replace_folder", full)
        with pytest.raises(TrainingError, match="training is not repeated"):
            run(tmp_path)
    assert run(tmp_path).already_finished
    assert adapter_bytes(tmp_path)


def test_memory_that_runs_out_names_the_setting(tmp_path, monkeypatch):
    def out_of_memory(batch):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(
        loop, "training_loss", lambda decoder, *, num_tokens, **options: out_of_memory
    )
    with pytest.raises(TrainingError, match=r"step 1: .*up to 32 tokens.*micro_batch_tokens"):
        run(tmp_path)


def test_memory_that_runs_out_elsewhere_names_the_setting_too(tmp_path, monkeypatch):
    def out_of_memory(*args, **options):
        raise torch.OutOfMemoryError("CUDA out of memory")

    config = make_config(evaluate_every=2)
    monkeypatch.setattr(loop, "mean_loss", out_of_memory)
    with pytest.raises(TrainingError, match=r"after step 2: .*train\.micro_batch_tokens"):
        run(tmp_path, config=config, held_out=make_prompts(2))
    monkeypatch.setattr(loop, "training_loss", out_of_memory)
    with pytest.raises(TrainingError, match=r"buffers of a step: .*train\.micro_batch_tokens"):
        run(tmp_path / "other", config=config)


@pytest.mark.parametrize("deterministic", [True, False])
def test_the_step_is_told_whether_its_bits_may_differ(tmp_path, monkeypatch, deterministic):
    told, real = [], loop.training_loss

    def watched(decoder, **options):
        told.append(options["deterministic"])
        return real(decoder, **options)

    def counted(decoder, *, longest, deterministic, **options):
        told.append(deterministic)
        return longest

    monkeypatch.setattr(loop, "training_loss", watched)
    monkeypatch.setattr("medimind.training.run.micro_batch_tokens", counted)
    run(tmp_path, config=make_config(deterministic=deterministic))
    assert told == [deterministic] * 2  # as the micro-batch is chosen, and the plan


def test_row_longer_than_a_micro_batch_is_found_before_the_first_step(tmp_path):
    tracker = Recorder()
    with pytest.raises(TrainingError, match=r"case-\d+: \d+ tokens do not fit"):
        run(tmp_path, config=make_config(micro_batch_tokens=16), tracker=tracker)
    assert tracker.rows == []


def test_no_rows_and_no_adapter_are_errors(tmp_path):
    with pytest.raises(PackingError, match="no rows"):
        run(tmp_path, train=[])
    bare = make_model()
    bare.decoder = type(bare.decoder)(bare.decoder.architecture)
    with pytest.raises(TrainingError, match="no adapter"):
        run(tmp_path, model=bare)


def test_held_out_rows_without_targets_are_left_out(tmp_path):
    held_out = make_prompts(2, seed=5)
    for prompt in held_out:
        prompt.is_target_S[:] = False
    assert run(tmp_path, held_out=held_out).held_out_losses == ()


@pytest.mark.parametrize("tokens", [24, 400])
def test_micro_batches_change_the_result_by_rounding_only(tmp_path, uninterrupted, tokens):
    result = run(tmp_path, config=make_config(micro_batch_tokens=tokens))
    losses = [row["train/loss"] for row in result.history]
    assert losses == pytest.approx([r["train/loss"] for r in uninterrupted[1].history], rel=1e-5)


def test_fp16_run_logs_its_scale_and_resumes(tmp_path):
    def options():
        return {"model": make_model(dtype=torch.float16)}

    tracker = Recorder()
    run(tmp_path / "whole", tracker=tracker, **options())
    assert tracker.rows[-1]["train/loss_scale"] == 2.0**16
    assert tracker.rows[-1]["train/overflows"] == 0
    killed_run(tmp_path / "cut", 5, **options())
    run(tmp_path / "cut", resume=True, **options())
    assert adapter_bytes(tmp_path / "cut") == adapter_bytes(tmp_path / "whole")
    state = json.loads((tmp_path / "cut/checkpoints/step-000008/state.json").read_text())
    assert state["loss_scale"]["good_steps"] == 8


def test_steps_of_epochs_count_weights():
    config = make_config(steps=None, epochs=2, batch_size=4)
    assert planned_steps(config, num_rows=10) == 5
    assert planned_steps(config, num_rows=10, weights=[2.0] * 10) == 10
    assert planned_steps(make_config(steps=3), num_rows=10) == 3


def test_torch_settings_hold_for_the_run_only():
    from medimind.training.compute import compute_settings

    before = (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled())
    with compute_settings(threads=before[0] + 1, device=torch.device("cpu")):
        assert torch.get_num_threads() == before[0] + 1
        assert torch.are_deterministic_algorithms_enabled()
    assert (torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()) == before
    with compute_settings(threads=None, device=torch.device("cuda")):
        assert not torch.are_deterministic_algorithms_enabled()


def test_peak_memory_is_that_of_the_process_or_zero(monkeypatch):
    import sys

    from medimind.training.memory import peak_memory_gib

    assert 0.05 < peak_memory_gib(torch.device("cpu")) < 100
    monkeypatch.setitem(sys.modules, "resource", None)
    assert peak_memory_gib(torch.device("cpu")) == 0.0

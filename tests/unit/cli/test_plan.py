"""``medimind plan`` needs neither a card nor weights."""

from __future__ import annotations

import pytest
import torch

from medimind.cli.main import main
from medimind.kernels.attention.footprint import Card


def test_every_part_of_the_peak_is_shown(capsys):
    assert main(["plan", "deepseek-r1-distill-llama-8b", "--gpu-memory", "8GiB"]) == 0
    text = capsys.readouterr().out
    for word in ("weights", "adapters", "optimizer", "activations", "predicted peak", "8.0 GiB"):
        assert word in text
    assert "2,048 tokens a micro-batch" in text
    assert main(["plan", "kaggle-t4", "--gpu-memory", "15GiB"]) == 0
    assert "2,048 tokens a micro-batch" in capsys.readouterr().out


def test_the_card_the_host_and_what_is_faster_are_named(capsys):
    def told(*arguments):
        assert main(["plan", "medical-o1", "train.max_length=4096", *arguments]) == 0
        return " ".join(capsys.readouterr().out.split())

    text = told("--gpu-memory", "24GiB", "train.micro_batch_tokens=8192")
    assert "DeepSeek-R1-Distill-Llama-8B (nf4), adapter of rank 16, on a card of 24.0 GiB" in text
    assert "counted as the one of that size that needs the most" in text
    assert "train.micro_batch_tokens=4096 (norms done again" in text
    assert "would fit at most" in text
    text = told("--gpu-memory", "24GiB", "train.micro_batch_tokens=4096")
    assert "faster" not in text
    text = told("--gpu-memory", "8GiB", "train.micro_batch_tokens=4096")
    assert "no CUDA graphs" in text
    assert "host memory: 1.9 GiB of" in text


def test_refusals_name_a_card_that_fits(capsys):
    assert main(["plan", "deepseek-r1-distill-llama-8b", "--gpu-memory", "6.5"]) == 1
    text = capsys.readouterr().err
    assert "model.head_quantization=int8 with train.optimizer=adamw_8bit" in text
    assert "a card of 8 GiB or more fits" in text


def test_usual_cards_are_shown_where_there_is_none(capsys, monkeypatch):
    monkeypatch.setattr("medimind.cli.plan._this_card", lambda: None)
    assert main(["plan", "starter", "train.micro_batch_tokens=4096"]) == 0
    text = capsys.readouterr().out
    for size in (8, 12, 16, 24, 40, 80):
        assert f"{size} GiB" in text


def test_a_small_card_and_fp8_by_recipe(capsys):
    arguments = ["plan", "starter", "train.precision=fp8", "train.memory=recompute_layers"]
    assert main([*arguments, "--gpu-memory", "6000MB"]) == 0
    assert "layers done again, weights in fp8" in " ".join(capsys.readouterr().out.split())


def test_fp8_is_refused_where_this_card_has_none(capsys, monkeypatch):
    monkeypatch.setattr("medimind.cli.plan._this_card", lambda: 16 << 30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (7, 5))
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "Tesla T4")
    monkeypatch.setattr(
        "medimind.kernels.attention.footprint.card_of", lambda device: Card((7, 5), 40)
    )
    assert main(["plan", "starter", "train.precision=fp8"]) == 1
    text = capsys.readouterr().err
    assert "Tesla T4 has no fp8" in text
    assert "train.precision=dtype" in text
    assert main(["plan", "starter"]) == 0


def test_a_hopper_counts_cudnn_where_bits_may_differ(capsys, monkeypatch):
    monkeypatch.setattr("medimind.cli.plan._this_card", lambda: 80 << 30)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(
        "medimind.kernels.attention.footprint.card_of", lambda device: Card((9, 0), 132)
    )

    def workspace(*overrides):
        recipe = ["medical-o1", "train.micro_batch_tokens=8192", "train.max_length=8192"]
        assert main(["plan", *recipe, *overrides]) == 0
        (line,) = [x for x in capsys.readouterr().out.splitlines() if x.startswith("workspace")]
        return float(line.split()[1])

    more = workspace("train.deterministic=false") - workspace()
    assert more == pytest.approx(0.25, abs=0.02)  # docs/notes/gpu_memory.md


def test_what_does_not_fit_is_refused_with_what_would(capsys):
    arguments = ["plan", "deepseek-r1-distill-llama-8b", "--gpu-memory", "8"]
    assert main([*arguments, "train.max_length=65536"]) == 1
    assert "train.micro_batch_tokens=" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpu-memory", "much"], "no size of memory"),
        (["--gpu-memory", "8", "lora.dropout=0.1"], "adapter dropout"),
        (["--gpu-memory", "8", "model.path=no/such-folder/x"], "no/such-folder/x"),
    ],
)
def test_mistakes_are_named(capsys, arguments, message):
    assert main(["plan", "starter", *arguments]) in (1, 2)
    assert message in capsys.readouterr().err

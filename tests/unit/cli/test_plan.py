"""``medimind plan`` needs neither a card nor weights."""

from __future__ import annotations

import pytest

from medimind.cli.main import main


def test_every_part_of_the_peak_is_shown(capsys):
    assert main(["plan", "deepseek-r1-distill-llama-8b", "--gpu-memory", "8GiB"]) == 0
    text = capsys.readouterr().out
    for word in ("weights", "adapters", "optimizer", "activations", "predicted peak", "8.0 GiB"):
        assert word in text
    assert "2,048 tokens a micro-batch" in text
    assert main(["plan", "kaggle-t4", "--gpu-memory", "15GiB"]) == 0
    assert "2,048 tokens a micro-batch" in capsys.readouterr().out


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

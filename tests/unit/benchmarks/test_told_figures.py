"""What pages tell of the training step is what its result files hold."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]


def _results(name):
    return json.loads((ROOT / f"benchmarks/results/{name}.json").read_text(encoding="utf-8"))


def _cells(page, first):
    """The cells of the one table row of a page that begins so, without emphasis."""
    lines = (ROOT / page).read_text(encoding="utf-8").splitlines()
    (line,) = [line for line in lines if line.startswith(f"| {first} |")]
    return [cell.strip().replace("**", "") for cell in line.strip("|").split("|")]


def _number(text):
    """The number that a cell begins with, and what its last digit is worth."""
    found = re.match(r"[\d,]+(\.\d+)?", text)
    assert found, text
    return float(found[0].replace(",", "")), 10.0 ** -len((found[1] or ".")[1:])


def _is(text, value):
    told, worth = _number(text)
    return abs(told - value) <= 0.51 * worth


@pytest.mark.parametrize(
    ("row", "setting"),
    [
        ("2 x 2048, memory free", "2x2048:fixed"),
        ("2 x 2048, memory free, fp8", "2x2048:fp8"),
        ("2 x 2048, lean", "2x2048:lean"),
        ("1 x 8192, lean", "1x8192:lean"),
        ("1 x 1024", "1x1024:free"),
    ],
)
def test_speeds_in_the_readme_are_those_measured(row, setting):
    (found,) = [r for r in _results("gpu_step")["rows"] if r["setting"] == setting]
    speed, memory = found["tokens_per_second"], found["peak_memory_gib"]
    _, ours, our_memory, theirs, their_memory, ratio = _cells("README.md", row)
    assert _is(ours, speed["medimind"])
    assert _is(theirs, speed["unsloth"])
    assert _is(our_memory, memory["medimind"])
    assert _is(their_memory, memory["unsloth"])
    assert _is(ratio, speed["medimind"] / speed["unsloth"])


def test_the_job_in_the_readme_is_the_one_measured():
    job = _results("gpu_step")["job"]
    cells = _cells("README.md", "60 steps of 8 rows of medical-o1")
    ours, theirs = job["medimind_free"]["seconds"], job["unsloth"]["seconds"]
    assert _is(cells[1], ours)
    assert _is(cells[3], theirs)
    assert _is(cells[5], theirs / ours)


@pytest.mark.parametrize(
    ("row", "backend"),
    [
        ("cuDNN", "cudnn"),
        ("our tiles", "tiled"),
        ("FlashAttention-4 4.0.0b36", "flash4, any order"),
        ("FlashAttention-4, deterministic", "flash4"),
    ],
)
def test_attention_in_the_decision_on_same_bits_is_that_measured(row, backend):
    (found,) = [
        kernel
        for kernel in _results("gpu_attention")["kernels"]
        if (kernel["rows"], kernel["backend"]) == ("2 x 2048", backend)
        and kernel["heads"] == "32 / 8 heads of 128"
    ]
    _, forward, backward, _ = _cells("docs/decisions/0006-same-bits.md", row)
    assert _is(forward, found["forward_us"])
    assert _is(backward, found["backward_us"])


@pytest.mark.parametrize(
    ("row", "rows", "order"),
    [
        ("2 rows of 2,048", "2 x 2048", "fixed"),
        ("the same, `train.deterministic: false`", "2 x 2048", "any"),
        ("rows of 1,796 and 2,300", "1,796 and 2,300", "fixed"),
    ],
)
def test_steps_with_flash_attention_4_are_those_measured(row, rows, order):
    (found,) = [step for step in _results("gpu_attention")["steps"] if step["rows"] == rows]
    _, without, with_it = _cells("docs/how-to/hopper.md", row)
    assert _is(without, found[f"{order} order, without"]["milliseconds"])
    assert _is(with_it, found[f"{order} order, with"]["milliseconds"])


def test_losses_in_the_readme_are_those_measured():
    found = _results("gpu_losses")
    cells = _cells("README.md", "learns the same: loss of each of 60 steps, bf16")
    each, final = re.findall(r"[\d.]+(?= %)", cells[1])
    assert _is(each, 100 * found["largest_difference"])
    assert _is(final, 100 * found["final_difference"])
    fp8 = _cells("README.md", "its loss with fp8, which is off unless asked for")[1]
    last, last_ten = re.findall(r"[\d.]+(?= %)", fp8)[:2]
    roundings = found["fp8_roundings"]
    assert _is(last, roundings["last"]["as shipped"])
    assert _is(last_ten, roundings["last_ten"]["as shipped"])

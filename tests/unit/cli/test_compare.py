"""`medimind compare` from files to a report: judges, training rows, mistakes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from medimind.cli.main import main
from medimind.cli.terminal import console
from medimind.evaluation.records import Record
from medimind.evaluation.score import score
from stub_endpoint import StubEndpoint, chat_reply


def results(path: Path, *, right: int, num: int = 20) -> str:
    """Open answers of a model, the first of which are right."""
    lines = []
    for index in range(num):
        answer = "Sepsis." if index < right else "Influenza."
        record = Record(
            key=f"{path.stem}/{index}",
            arm=path.stem,
            case_id=f"case-{index}",
            kind="open",
            question=f"What explains the {index} findings of this patient on the ward today?",
            gold="Sepsis",
            output=f"<think>\nHm.\n</think>\n\n{answer}",
            answer_part=answer,
            finish_reason="stop",
            num_tokens=9,
            well_formed=True,
        )
        lines.append(score(record, closed=True).to_json())
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return str(path)


@pytest.fixture
def files(tmp_path) -> list[str]:
    return [results(tmp_path / "a.jsonl", right=2), results(tmp_path / "b.jsonl", right=19)]


def test_report_with_judges(files, tmp_path, capsys) -> None:
    stub = StubEndpoint(lambda body, _: (200, chat_reply("Both agree.\nVerdict: same")))
    out = tmp_path / "report"
    with stub.running():
        # Both have the same name at their endpoints.
        judges = ["--judge", f"one=base@{stub.url}", "--judge", f"two=base@{stub.url}"]
        names = [f"base={files[0]}", f"tuned={files[1]}"]
        assert main(["compare", *names, "--out", str(out), *judges]) == 0
    assert "report" in capsys.readouterr().out
    assert {body["model"] for body in stub.bodies} == {"base"}
    value = json.loads((out / "report.json").read_text("utf-8"))
    assert value["report"]["verdict"] == "improved"
    assert [(one["arm"], one["judge"], one["right"]) for one in value["evidence"]["judged"]] == [
        ("base", "one", 20),
        ("base", "two", 20),
        ("tuned", "one", 20),
        ("tuned", "two", 20),
    ]
    assert "Open answers, judged by a model" in (out / "report.md").read_text("utf-8")
    assert "tuned answers better than base" in (out / "report.html").read_text("utf-8")


def test_a_third_model_as_control(files, tmp_path, capsys) -> None:
    control = results(tmp_path / "llama.jsonl", right=10)
    out = tmp_path / "report"
    assert main(["compare", *files, "--control", control, "--out", str(out)]) == 0
    comparisons = json.loads((out / "report.json").read_text("utf-8"))["comparisons"]
    assert len(comparisons) == 3
    assert comparisons[2]["before"].endswith("llama")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--judge", "one@http://localhost:1"], "name its folder, --out"),
        (["--trained-on", "runs/none"], "name its folder, --out"),
        (["--out", "r", "--judge", "one"], "--judge is MODEL@URL"),
        (["--out", "r", *["--judge", "a@http://localhost:1"] * 3], "twice at most"),
        (["--out", "r", "--trained-on", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_end_in_one_line(files, options, message, tmp_path, capsys, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *files, *options]) == 2
    told = capsys.readouterr().err
    assert message in told
    assert "Traceback" not in told


def test_the_verdict_is_seen_at_the_width_of_a_pipe(files, capsys, monkeypatch) -> None:
    monkeypatch.setattr(console, "width", 80)
    assert main(["compare", *files]) == 0
    out = capsys.readouterr().out
    table = out[out.index("20 cases") :].splitlines()
    assert table[0].split() == [
        "20",
        "cases",
        "before",
        "after",
        "difference",
        "interval",
        "verdict",
    ]
    answers = next(line for line in table if line.startswith("Right answers"))
    assert answers.rstrip().endswith("improved")
    assert "…" not in out
    assert max(map(len, table)) <= 80
    assert "Where no verdict stands, nothing can be concluded." in out


def test_a_folder_holds_the_tuned_model_to_the_base_models_own_template_too(tmp_path) -> None:
    """A gain over a prompt that the base model was not made for is no gain yet."""
    folder = tmp_path / "benchmarks" / "ward"
    folder.mkdir(parents=True)
    for name, right in (("base", 0), ("base_native", 18), ("tuned", 19)):
        results(folder / f"{name}.jsonl", right=right)
    out = tmp_path / "report"
    assert main(["compare", str(folder.parent), "--out", str(out)]) == 0
    compared = json.loads((out / "report.json").read_text("utf-8"))["comparisons"]
    pairs = [(one["before"], one["after"]) for one in compared]
    assert pairs == [("base", "tuned"), ("base", "base_native"), ("base_native", "tuned")]
    verdicts = [one["metrics"][0]["verdict"] for one in compared]
    assert verdicts == ["improved", "improved", "nothing can be concluded"]

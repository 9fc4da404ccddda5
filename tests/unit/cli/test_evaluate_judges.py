"""`medimind evaluate --judge`: who is asked, what is shown, what is refused; no network."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

import medimind.pipeline
from medimind.cli.main import main
from medimind.config.load import load_recipe
from medimind.evaluation.judge import summarise_judged
from medimind.evaluation.judge.open import NOTHING_TO_JUDGE
from medimind.evaluation.results import read_benchmarks
from stub_endpoint import StubEndpoint, chat_reply

RECIPES = Path(__file__).resolve().parents[3] / "recipes"
DISEASES = ("Sepsis", "Influenza", "Gout")


@pytest.fixture
def questions(tmp_path) -> Path:
    path = tmp_path / "ward.jsonl"
    rows = [
        {"question": f"What explains the findings of patient {number}?", "answer": disease}
        for number, disease in enumerate(DISEASES)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def replies(body, _):
    """A model that always says gout, another that says flu, and a judge that knows both names."""
    text = body["messages"][-1]["content"]
    if body["model"] == "judge":
        first, second = text.split("Text 1:\n")[1].split("\n\nText 2:\n")
        second = second.split("\n\nDo both")[0]
        same = first == second or {first, second} == {"Influenza", "The flu."}
        return 200, chat_reply(f"One reads.\nVerdict: {'same' if same else 'different'}")
    return 200, chat_reply("The flu." if body["model"] == "tuned" else "Gout")


def test_open_answers_of_one_model_go_to_the_judge(questions, tmp_path, capsys) -> None:
    stub, out = StubEndpoint(replies), tmp_path / "out"
    with stub.running():
        asked = ["evaluate", "base", "--endpoint", stub.url, "--benchmark", str(questions)]
        judge = ["--judge", f"strict=judge@{stub.url}"]
        assert main([*asked, "--out", str(out), *judge]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "base, judged by strict: 1 of 3 open answers right" in shown
    assert len((out / "judges/strict.jsonl").read_text("utf-8").splitlines()) == 2 * 3


def test_a_report_of_two_models_names_them_as_elsewhere(questions, tmp_path, capsys) -> None:
    stub, out = StubEndpoint(replies), tmp_path / "out"
    with stub.running():
        asked = ["evaluate", "base", "--tuned-name", "tuned", "--endpoint", stub.url]
        judge = ["--judge", f"judge@{stub.url}", "--judge", f"second=judge@{stub.url}"]
        assert main([*asked, "--benchmark", str(questions), "--out", str(out), *judge]) == 0
    value = json.loads((out / "report.json").read_text("utf-8"))
    found = [(one["title"], one["judge"], one["right"]) for one in value["evidence"]["judged"]]
    assert found == [
        ("base", "judge", 1),
        ("base", "second", 1),
        ("tuned", "judge", 1),
        ("tuned", "second", 1),
    ]
    assert "tuned, judged by second" in (out / "report.md").read_text("utf-8")
    # Judgements beside results are no results.
    assert [one.name for one in read_benchmarks(out)] == ["base", "tuned"]


def test_a_judge_without_open_answers_is_told(tmp_path, capsys) -> None:
    path = tmp_path / "choice.jsonl"
    row = {"question": "Which one?", "options": {"A": "Gout", "B": "Sepsis"}, "answer": "A"}
    path.write_text(json.dumps(row) + "\n", encoding="utf-8")
    stub = StubEndpoint(replies)
    with stub.running():
        asked = ["evaluate", "base", "--endpoint", stub.url, "--benchmark", str(path)]
        judge = ["--judge", f"judge@{stub.url}", "--out", str(tmp_path / "out")]
        assert main([*asked, *judge]) == 0
    assert NOTHING_TO_JUDGE in " ".join(capsys.readouterr().out.split())
    assert "judge" not in {body["model"] for body in stub.bodies}


def test_judges_of_the_command_line_take_the_place_of_the_recipes(monkeypatch, tmp_path) -> None:
    asked = []

    def stop(folder, *, overrides, display):
        asked.extend(overrides)
        raise KeyboardInterrupt

    monkeypatch.setattr(medimind.pipeline, "evaluate_run", stop)
    judges = ["--judge", "a=big@http://localhost:1/v1", "--judge", "small@https://b/v1"]
    main(["evaluate", str(tmp_path), "evaluation.wrong_hints=3", *judges])
    recipe = tmp_path / "recipe.yaml"
    starter = yaml.safe_load((RECIPES / "starter.yaml").read_text("utf-8"))
    starter["evaluation"]["judges"] = [{"url": "http://c/v1", "model": "other"}]
    recipe.write_text(yaml.safe_dump(starter), encoding="utf-8")
    config = load_recipe(recipe, overrides=asked).evaluation
    assert [(one.url, one.model, one.name) for one in config.judges] == [
        ("http://localhost:1/v1", "big", "a"),
        ("https://b/v1", "small", None),
    ]
    assert config.wrong_hints == 3


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["run", "--judge", "one"], "--judge is MODEL@URL"),
        (["run", "--judge", "=one@http://localhost:1"], "--judge is MODEL@URL"),
        (["run", *["--judge", "a@http://localhost:1"] * 3], "twice at most"),
        (["--rescore", "x.jsonl", "--judge", "a@http://localhost:1"], "asks no judge"),
    ],
)
def test_mistakes_are_told(arguments, told, capsys) -> None:
    assert main(["evaluate", *arguments]) == 2
    assert told in capsys.readouterr().err


def test_an_arm_without_a_title_goes_by_its_key() -> None:
    record = SimpleNamespace(
        arm="tuned",
        kind="open",
        is_asked=True,
        gold="Gout",
        case_id="1",
        sample=0,
        correct=True,
        status="parsed",
    )
    said = SimpleNamespace(judge="j", arm="tuned", case_id="1", sample=0, verdict="same")
    orders = [SimpleNamespace(**vars(said), order=order) for order in ("a", "b")]
    plain, named = (
        summarise_judged([record], orders, titles=titles)[0]  # type: ignore[list-item]
        for titles in ({}, {"tuned": "Tuned model"})
    )
    assert (plain.shown, named.shown, named.right) == ("tuned", "Tuned model", 1)

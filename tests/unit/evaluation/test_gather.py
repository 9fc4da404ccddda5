"""What a recipe asks for beside the held-out cases: gathered by a tiny real model, asked once."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from evaluation_builders import make_records
from full_report import benchmarks, evaluation
from test_before_after import TEMPLATE, cases, config, folder, model  # noqa: F401  (fixtures)

from medimind.cli.main import main
from medimind.config.benchmarks import BenchmarkConfig
from medimind.config.judge import JudgeConfig
from medimind.evaluation.before_after import compare_before_after
from medimind.evaluation.evidence import Evidence
from medimind.evaluation.gather import gather_evidence
from medimind.evaluation.judge.open import judge_records
from medimind.evaluation.score import score
from medimind.models.adapter import save_adapter
from medimind.pipeline import EvaluatedRun, log_before_after
from stub_endpoint import StubEndpoint, chat_reply

ROWS = [
    {"question": f"pain {index} why", "options": ["flu", "cold", "pain"], "answer": "cold"}
    for index in range(4)
]


@pytest.fixture
def questions(tmp_path) -> Path:
    path = tmp_path / "ward.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    return path


def gather(model, place: Path, *, train=(), show_options=True, **changes) -> Evidence:  # noqa: F811
    settings = config(**changes)
    evaluation = compare_before_after(
        model, cases(), template=TEMPLATE, config=settings, folder=place, show_options=show_options
    )
    return gather_evidence(
        model,
        train=train,
        held_out=cases(),
        arms=[arm.name for arm in evaluation.arms],
        template=TEMPLATE,
        config=settings,
        folder=place,
        show_options=show_options,
    )


def test_nothing_asked_for_leaves_the_overlap_alone(model, tmp_path) -> None:  # noqa: F811
    found = gather(model, tmp_path, train=cases()[:2])
    assert found.benchmarks is None
    assert found.misled == found.judged == found.notes == ()
    (overlap,) = found.overlaps
    assert overlap.benchmark is None
    assert (overlap.num_items, overlap.num_train) == (5, 2)
    assert overlap.shared_ids == tuple(case.id for case in cases()[:2])


def test_benchmarks_and_hints(model, questions, tmp_path, monkeypatch) -> None:  # noqa: F811
    asked = {
        "benchmarks": BenchmarkConfig(
            names=(str(questions),), samples=2, max_new_tokens=8, native_template=True
        ),
        "wrong_hints": 3,
    }
    found = gather(model, tmp_path / "run", **asked)
    compared = found.benchmarks
    assert compared is not None
    assert [(one.benchmark, one.before, one.after) for one in compared.comparisons] == [
        ("ward", "base", "tuned"),
        ("ward", "base", "base_native"),
        ("ward", "base_native", "tuned"),
    ]
    assert compared.comparisons[0].before_title == "Base model"
    assert {arm.num_asked for arm in compared.arms} == {8}  # four questions, two samples
    assert [(one.name, one.benchmark, one.num_cases) for one in found.misled] == [
        ("base", None, 3),
        ("tuned", None, 3),
    ]
    assert [one.benchmark for one in found.overlaps] == [None, "ward"]
    monkeypatch.setattr("medimind.engines.own.generate", None)  # nothing may be asked again
    monkeypatch.setattr("medimind.engines.own.option_logprobs", None)
    assert gather(model, tmp_path / "run", **asked) == found


def test_hints_go_to_a_benchmark_where_held_out_cases_show_no_options(
    model,  # noqa: F811
    questions,
    tmp_path,
) -> None:
    found = gather(
        model,
        tmp_path / "run",
        show_options=False,
        benchmarks=BenchmarkConfig(names=(str(questions),), max_new_tokens=8, likelihood="none"),
        wrong_hints=10,
    )
    assert [(one.benchmark, one.num_cases) for one in found.misled] == [("ward", 4), ("ward", 4)]


def test_judges_behind_endpoints(tmp_path) -> None:
    records = [
        score(dataclasses.replace(record, kind="open", gold="Aortic dissection"), closed=True)
        for record in make_records("tuned", num=6, right=0.0, loss=2.0, seed=1)
    ]
    stub = StubEndpoint(lambda body, _: (200, chat_reply("Both agree.\nVerdict: same")))
    with stub.running():
        judges = [JudgeConfig(url=stub.url, model=name) for name in ("org/one", "two")]
        found = judge_records(records, judges=judges, folder=tmp_path / "judges")
        again = judge_records(records, judges=judges, folder=tmp_path / "judges")
    assert again == found
    assert [(one.judge, one.num_open, one.other) for one in found] == [
        ("org-one", 6, "two"),
        ("two", 6, "org-one"),
    ]
    assert found[0].right == found[0].num_judged > 0
    assert sum(stub.asked.values()) == 2 * 2 * found[0].num_judged  # both orders, asked once
    assert judge_records(records, judges=(), folder=tmp_path / "none") == ()


def test_evaluate_writes_a_report_of_benchmarks(
    folder,  # noqa: F811
    model,  # noqa: F811
    questions,
    tmp_path,
    capsys,
) -> None:
    adapter, out = tmp_path / "adapter", tmp_path / "out"
    save_adapter(adapter, model.decoder, base_model_name=str(folder))
    asked = ["--benchmark", str(questions), "--max-new-tokens", "8", "--out", str(out)]
    own = ["--adapter", str(adapter), "--template", "chatml"]
    assert main(["evaluate", str(folder), *asked, *own]) == 0
    assert "report" in capsys.readouterr().out
    value = json.loads((out / "report.json").read_text("utf-8"))
    assert [(one["benchmark"], one["after"]) for one in value["comparisons"]] == [("ward", "tuned")]
    assert "Whether any of these models was trained on the cases" in value["report"]["limits"][-4]
    assert main(["compare", str(out)]) == 0  # the folder stands for both of its models
    assert "ward: base -> tuned" in capsys.readouterr().out


def test_hints_that_cannot_be_given_are_told(model, tmp_path) -> None:  # noqa: F811
    found = gather(model, tmp_path, show_options=False, wrong_hints=3)
    assert found.misled == ()
    assert "neither held-out cases nor benchmarks offer options" in found.notes[0]


def test_trackers_get_both_tables() -> None:
    tables: dict[str, tuple] = {}

    class Tables:
        def log_table(self, name, *, columns, rows) -> None:
            tables[name] = (columns, rows)

    found = EvaluatedRun(None, evaluation(), Evidence(benchmarks=benchmarks()))  # type: ignore[arg-type]
    log_before_after(found, Tables())  # type: ignore[arg-type]
    columns, rows = tables["before_after"]
    assert columns[0] == "metric"
    assert all(len(row) == len(columns) for row in rows)
    columns, rows = tables["benchmarks"]
    assert columns[:3] == ("benchmark", "before_model", "after_model")
    assert {row[0] for row in rows} == {"medqa", "pubmedqa"}
    assert {row[-1] for row in rows} >= {"improved", "worse"}

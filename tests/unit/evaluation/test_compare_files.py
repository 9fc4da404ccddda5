"""`medimind compare`: our files, run folders, foreign files; unequal coverage comes first."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from evaluation_builders import make_records

from medimind.errors import EvaluationError
from medimind.evaluation.compare import ResultSet, compare_results, read_results
from medimind.evaluation.foreign import FieldMapping, read_foreign

PUBLISHED = FieldMapping(
    question="question",
    output="response",
    gold="correct_answer",
    declared="num_questions",
    prefill="Answer:",
)


def write(path: Path, records) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(record.to_json() + "\n" for record in records), encoding="utf-8")
    return path


def arm(name: str, *, num: int = 30, right: float = 0.5, seed: int = 1):
    return make_records(name, num=num, right=right, loss=2.0, seed=seed)


def test_run_folders_files_and_names(tmp_path) -> None:
    path = write(tmp_path / "runs" / "one" / "evaluation" / "tuned.jsonl", arm("tuned"))
    from_run, from_file = read_results(tmp_path / "runs" / "one"), read_results(path)
    assert from_run == from_file
    assert from_run.name == "one/tuned"
    assert read_results(path.parent).records == from_run.records
    assert read_results(path, name="mine").name == "mine"


def test_each_file_against_the_first(tmp_path) -> None:
    sets = [
        ResultSet("a", tuple(arm("a", right=0.1))),
        ResultSet("b", tuple(arm("b", right=0.9, seed=2))),
        ResultSet("c", tuple(arm("c", right=0.1))),
    ]
    found = compare_results(sets, num_samples=500)
    assert [(c.before, c.after) for c in found.comparisons] == [("a", "b"), ("a", "c")]
    verdicts = [c.metric("answer_accuracy").verdict for c in found.comparisons]  # type: ignore[union-attr]
    assert verdicts == ["improved", "nothing can be concluded"]
    assert [one.name for one in found.arms] == ["a", "b", "c"]
    assert found.warnings == ()
    assert json.loads(json.dumps(found.to_dict()))["arms"][0]["name"] == "a"


def test_order_of_records_does_not_matter() -> None:
    one, other = arm("a"), arm("b", seed=2)
    straight = compare_results([ResultSet("a", tuple(one)), ResultSet("b", tuple(other))])
    turned = compare_results([ResultSet("a", tuple(one)), ResultSet("b", tuple(other[::-1]))])
    assert straight.comparisons == turned.comparisons


def test_different_cases_are_refused_unless_asked_and_then_told() -> None:
    sets = [ResultSet("a", tuple(arm("a"))), ResultSet("b", tuple(arm("b", num=20)))]
    with pytest.raises(EvaluationError, match=r"different cases .*a has 30 cases, 10 of them"):
        compare_results(sets)
    found = compare_results(sets, on_difference="common", num_samples=200)
    assert found.comparisons[0].num_cases == 20
    assert "compared on the 20 in common" in found.warnings[0]
    assert found.comparisons[0].warnings == found.warnings


def test_same_count_of_other_cases_is_refused() -> None:
    shifted = [dataclasses.replace(r, case_id=f"x{r.case_id}") for r in arm("b")]
    mixed = [*arm("b")[:29], shifted[29]]
    with pytest.raises(EvaluationError, match="no case in common"):
        compare_results([ResultSet("a", tuple(arm("a"))), ResultSet("b", tuple(shifted))])
    with pytest.raises(EvaluationError, match="different cases"):
        compare_results([ResultSet("a", tuple(arm("a"))), ResultSet("b", tuple(mixed))])


def test_same_id_with_another_gold_answer_is_refused() -> None:
    other = [dataclasses.replace(r, gold="C") for r in arm("b")]
    with pytest.raises(EvaluationError, match="30 cases with the same id but another question"):
        compare_results([ResultSet("a", tuple(arm("a"))), ResultSet("b", tuple(other))])


def test_one_file_is_no_comparison_and_equal_names_are_told_apart() -> None:
    one = ResultSet("a", tuple(arm("a")))
    with pytest.raises(EvaluationError, match="at least two"):
        compare_results([one])
    found = compare_results([one, one], num_samples=200)
    assert [summary.name for summary in found.arms] == ["a (1)", "a (2)"]


def test_unusable_files(tmp_path) -> None:
    with pytest.raises(EvaluationError, match="holds no evaluation"):
        read_results(tmp_path)
    empty = tmp_path / "empty.jsonl"
    empty.write_text("")
    with pytest.raises(EvaluationError, match="no results"):
        read_results(empty)
    twice = write(tmp_path / "twice.jsonl", [*arm("a", num=2), *arm("a", num=1)])
    with pytest.raises(EvaluationError, match="1 case there more than once: case-000"):
        read_results(twice)


def test_damaged_lines_are_told(tmp_path) -> None:
    path = write(tmp_path / "a.jsonl", arm("a", num=3))
    path.write_bytes(path.read_bytes() + b"{broken")
    found = read_results(path, name="a")
    assert found.notes == ("a: 1 damaged line left out",)
    compared = compare_results([found, ResultSet("b", tuple(arm("b", num=3)))], num_samples=200)
    assert "damaged" in compared.warnings[0]


def test_published_run_and_its_defect(shared) -> None:
    """Every arm of the published run was scored on 32 of the 100 items it declares."""
    path = shared / "data" / "generations" / "qwen3_medqa100_beforeafter.json"
    sets = [
        read_results(
            path, name=name, mapping=dataclasses.replace(PUBLISHED, rows=f"models.{name}.results")
        )
        for name in ("base", "finetuned")
    ]
    assert [one.declared for one in sets] == [100, 100]
    found = compare_results(sets, num_samples=1000)
    assert "base holds 32 of the 100 cases that its file declares" in found.warnings[0]
    assert found.comparisons[0].num_cases == 32
    accuracy = found.comparisons[0].metric("answer_accuracy")
    assert accuracy is not None
    assert accuracy.verdict == "nothing can be concluded"
    strict = [one.sensitivity[0].correct for one in found.arms]
    assert all(one.num_asked == 32 for one in found.arms)
    assert strict == [one.correct for one in found.arms]


FOREIGN = [
    {
        "id": 1,
        "q": "one?",
        "out": "thoughts</think>Answer: A",
        "gold": "a",
        "o": {"A": "x", "B": "y"},
    },
    {"id": 2, "q": "two?", "out": "Answer: B", "gold": "A", "o": ["x", "y"], "f": "length"},
]
MAPPING = FieldMapping(question="q", output="out", gold="gold", id="id", options="o")


def test_foreign_rows_are_scored_by_our_rule(tmp_path) -> None:
    path = tmp_path / "theirs.jsonl"
    path.write_text("\n".join(json.dumps(row) for row in FOREIGN), encoding="utf-8-sig")
    records, declared = read_foreign(path, MAPPING, arm="theirs")
    assert declared is None
    assert [r.case_id for r in records] == ["1", "2"]
    assert [r.correct for r in records] == [True, False]
    assert [r.options for r in records] == [("x", "y"), ("x", "y")]
    assert records[0].answer_part == "Answer: A"


def test_foreign_open_questions_and_finish_reason(tmp_path) -> None:
    path = tmp_path / "theirs.json"
    rows = [{"question": "dx?", "output": "It is sepsis.", "gold": "Sepsis", "f": "length"}]
    path.write_text(json.dumps({"all": rows}))
    mapping = FieldMapping(rows="all", num_options=0, finish_reason="f")
    (record,), _ = read_foreign(path, mapping, arm="theirs")
    assert (record.kind, record.status, record.correct) == ("open", "cut_off", False)


@pytest.mark.parametrize(
    ("content", "mapping", "message"),
    [
        (b"\xff\xfe", MAPPING, "not UTF-8"),
        (b"{", MAPPING, "not JSON"),
        (b"[" * 100_000, MAPPING, "not JSON"),
        (b"{}", MAPPING, "not a list"),
        (b"[1]", MAPPING, "not a list"),
        (b"{}", FieldMapping(rows="a.b"), "no 'a.b'"),
        (b'{"a": 1}', FieldMapping(rows="a.b"), "no 'a.b'"),
        (b'[{"q": 1, "out": null}]', MAPPING, "row 1: field 'out'"),
        (b'[{"q": "", "out": "", "gold": "A", "o": "AB"}]', MAPPING, "holds no options"),
        (
            b'[{"q": "", "out": "", "gold": "C", "id": 1, "o": ["x"]}]',
            MAPPING,
            "no option's letter",
        ),
        (b'{"a": [], "n": "x"}', FieldMapping(rows="a", declared="n"), "not a number"),
    ],
)
def test_foreign_files_that_do_not_fit(tmp_path, content, mapping, message: str) -> None:
    path = tmp_path / "theirs.json"
    path.write_bytes(content)
    with pytest.raises(EvaluationError, match=message):
        read_foreign(path, mapping, arm="theirs")
    with pytest.raises(EvaluationError, match="cannot be read"):
        read_foreign(tmp_path / "none.json", mapping, arm="theirs")

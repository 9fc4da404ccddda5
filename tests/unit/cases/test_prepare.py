from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
from sample_rows import o1_row, write_jsonl

from medimind.cases.describe import describe_cases
from medimind.cases.items import read_items
from medimind.cases.prepare import PreparedCases, hash_cases, prepare_cases
from medimind.config.data import DataConfig
from medimind.errors import DataError


def prepare(folder: Path, seed: int = 0, **settings) -> PreparedCases:
    base = {"sources": [{"source": "file", "path": "a.jsonl"}], "held_out": {"rows": 5}}
    config = DataConfig.model_validate({**base, **settings})
    return prepare_cases(config, base_folder=folder, seed=seed)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write_jsonl(tmp_path / "a.jsonl", [o1_row(n, subject_name="Liver") for n in range(20)])
    return tmp_path


def test_splits_and_describes(folder):
    prepared = prepare(folder)
    assert (len(prepared.train), len(prepared.held_out)) == (15, 5)
    assert prepared.train_weights == (1.0,) * 15
    summary = json.loads(json.dumps(prepared.summary))
    assert summary["sha256"] == prepared.sha256
    assert (summary["loading"]["rows_in"], summary["loading"]["kept"]) == (20, 20)
    assert summary["loading"]["sources"][0]["files"][0]["rows"] == 20
    assert summary["train"]["cases"] == 15
    assert summary["train"]["by_specialty"] == {"Liver": 15}
    assert summary["held_out"]["words"]["question"]["median"] == 15
    assert "w3x1" not in json.dumps(summary)
    assert prepared.warnings == ()


def test_the_same_seed_gives_the_same_data_and_another_seed_other(folder):
    first = prepare(folder)
    assert prepare(folder).sha256 == first.sha256
    assert prepare(folder, seed=1).sha256 != first.sha256


def test_the_hash_covers_every_field_that_matters(folder):
    prepared = prepare(folder)
    case = prepared.train[0]
    changes = {
        "question": "x",
        "reasoning": "x",
        "response": "x",
        "answer": "x",
        "options": ("x", "y"),
        "answer_index": 1,
        "system": "x",
        "id": "x",
    }
    hashes = {prepared.sha256}
    for name, value in changes.items():
        changed = dataclasses.replace(case, **{name: value})
        hashes.add(
            hash_cases(
                train=(changed, *prepared.train[1:]),
                held_out=prepared.held_out,
                weights=prepared.train_weights,
            )
        )
    assert len(hashes) == 9


def test_training_rows_that_repeat_a_held_out_question_are_left_out(tmp_path):
    rows = [o1_row(n, split="train") for n in range(6)]
    rows.append(o1_row(3, split="held_out", Complex_CoT="Other thoughts.", Response="Other."))
    write_jsonl(tmp_path / "a.jsonl", rows)
    prepared = prepare(tmp_path, held_out={})
    assert [case.id for case in prepared.held_out] == ["a.jsonl:7"]
    assert "a.jsonl:4" not in {case.id for case in prepared.train}
    (hit,) = prepared.contamination
    assert (hit.case_id, hit.item_id, hit.coverage) == ("a.jsonl:4", "a.jsonl:7", 1.0)
    assert "they are left out" in prepared.warnings[0]
    assert prepared.summary["contamination"]["dropped"] == 1

    warned = prepare(tmp_path, held_out={}, contamination={"action": "warn"})
    assert len(warned.train) == 6
    assert "trained on all the same" in warned.warnings[0]
    with pytest.raises(DataError, match=r"a\.jsonl:4 holds 100% of a\.jsonl:7"):
        prepare(tmp_path, held_out={}, contamination={"action": "stop"})


def test_benchmarks_are_checked_too(folder):
    question = o1_row(2)["Question"]
    rows = [{"question": question}, {"question": "Too short?"}, {"question": ""}, 5]
    write_jsonl(folder / "bench.jsonl", rows)
    prepared = prepare(folder, held_out={}, contamination={"benchmarks": ["bench.jsonl"]})
    assert [hit.item_id for hit in prepared.contamination] == ["bench.jsonl:1"]
    figures = prepared.summary["contamination"]
    assert (figures["items"], figures["items_unread"], figures["items_too_short"]) == (2, 2, 1)
    assert any("bench.jsonl: 2 rows hold no question" in text for text in prepared.warnings)
    assert any("No case is held out" in text for text in prepared.warnings)


def test_benchmark_files_that_hold_no_questions(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"qestion": "x"}])
    with pytest.raises(DataError, match="Rename the column 'qestion'"):
        read_items(tmp_path / "a.jsonl")
    write_jsonl(tmp_path / "b.jsonl", [{"zzz": "x"}])
    with pytest.raises(DataError, match="Name a column 'question'"):
        read_items(tmp_path / "b.jsonl")
    (tmp_path / "c.json").write_text("[]")
    with pytest.raises(DataError, match="no questions were found"):
        read_items(tmp_path / "c.json")


def test_broken_options_of_a_benchmark_do_not_hide_its_question(tmp_path):
    write_jsonl(tmp_path / "a.jsonl", [{"question": "Why?", "options": 5}])
    (item,), unread = read_items(tmp_path / "a.jsonl")
    assert (item.question, item.options, unread) == ("Why?", (), 0)


def test_nothing_left_to_train_on(folder):
    benchmark = [{"question": o1_row(n)["Question"]} for n in range(20)]
    write_jsonl(folder / "bench.jsonl", benchmark)
    with pytest.raises(DataError, match="no case is left to train on"):
        prepare(folder, contamination={"benchmarks": ["bench.jsonl"]})


def test_the_starter_set_keeps_its_own_split(tmp_path):
    config = DataConfig.model_validate({"sources": [{"source": "starter"}]})
    prepared = prepare_cases(config, base_folder=tmp_path, seed=0)
    assert {case.split for case in prepared.held_out} <= {"held_out"}
    assert {case.split for case in prepared.train} == {"train"}
    assert prepared.loaded.rejections == ()
    assert prepared.loaded.duplicates == ()
    assert prepared.contamination == ()


def test_no_cases_have_no_lengths():
    assert describe_cases([])["words"] == {"question": {}, "reasoning": {}, "response": {}}

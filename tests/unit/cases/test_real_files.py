"""All real files: nothing lost, nothing misread."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from medimind.cases.items import read_items
from medimind.cases.load import load_cases
from medimind.cases.loaded import LoadedCases
from medimind.cases.prepare import prepare_cases
from medimind.config.data import DataConfig


def load(shared: Path, path: str, **settings) -> LoadedCases:
    config = DataConfig.model_validate({"sources": [{"source": "file", "path": path}], **settings})
    return load_cases(config, base_folder=shared / "data")


@pytest.mark.parametrize(
    ("path", "schema", "rows", "rejected"),
    [
        ("cot/medical_o1_500.jsonl", "medical-o1", 500, 0),
        ("cot/medical_o1_gold_100.jsonl", "medical-o1", 100, 0),
        ("cot/medical_o1_zh_200.json", "medical-o1", 200, 0),
        ("mcq/medqa_us_4op_test_part.jsonl", "multiple-choice", 500, 0),
        ("mcq/medmcqa_dev_part.jsonl", "multiple-choice", 1500, 0),
        ("mcq/pubmedqa_pqal_part.json", "question-answer", 400, 0),
        ("mcq/medxpertqa_text_part.jsonl", "multiple-choice", 120, 0),
        ("mcq/mmlu_pro_health_part.jsonl", "multiple-choice", 400, 0),
        ("mcq/mmlu", "multiple-choice", 672, 0),
        ("radiology/indiana_reports.csv", "radiology", 1500, 227),
    ],
)
def test_every_row_is_accounted_for(shared, path, schema, rows, rejected):
    loaded = load(shared, path, deduplicate="exact")
    assert {file.schema for file in loaded.sources[0].files} == {schema}
    assert (loaded.rows_in, len(loaded.rejections)) == (rows, rejected)
    assert len(loaded.cases) + len(loaded.duplicates) == rows - rejected


def test_reports_without_findings_or_impression_are_rejected_by_line(shared):
    loaded = load(shared, "radiology/indiana_reports.csv", deduplicate="none")
    fields = [rejection.field for rejection in loaded.rejections]
    assert (fields.count("findings"), fields.count("impression")) == (224, 3)
    first = loaded.rejections[0]
    lines = (shared / "data/radiology/indiana_reports.csv").read_text("utf-8").split("\n")
    assert ",," in lines[first.line - 1]


@pytest.mark.parametrize(
    "path", ["mcq/medqa_us_4op_test_part.jsonl", "mcq/mmlu_pro_health_part.jsonl"]
)
def test_the_right_option_is_the_answer_text(shared, path):
    lines = (shared / "data" / path).read_text("utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    cases = load(shared, path, deduplicate="none").cases
    answers = [row["options"][row["answer_idx"]].strip() for row in rows]
    assert [case.answer for case in cases] == answers
    assert [case.answer for case in cases] == [row["answer"].strip() for row in rows]


def test_medmcqa_counts_from_one_as_its_explanations_say(shared):
    cases = load(shared, "mcq/medmcqa_dev_part.jsonl", deduplicate="none").cases
    named = re.compile(r"\s*Ans(?:wer)?\.?\s*(?:is)?\s*[:.(]*\s*'?\(?([A-D])\b", re.IGNORECASE)
    found = [(named.match(case.reasoning), case.answer_index) for case in cases]
    told = ["ABCD".index(match[1].upper()) == index for match, index in found if match]
    assert len(told) > 250
    assert all(told)


def test_options_written_for_another_question_are_not_asked(shared):
    cases = load(shared, "cot/medical_o1_gold_100.jsonl").cases
    assert all(case.answer and not case.options for case in cases)


def test_real_duplicates(shared):
    chinese = load(shared, "cot/medical_o1_zh_200.json")
    assert [duplicate.kind for duplicate in chinese.duplicates] == ["exact", "exact"]
    reports = load(shared, "radiology/indiana_reports.csv")
    assert {duplicate.kind for duplicate in reports.duplicates} == {"exact", "near"}


def test_the_story_is_split_and_checked_against_all_benchmarks(shared):
    benchmarks = ["mcq"]
    config = DataConfig.model_validate(
        {
            "sources": [{"source": "file", "path": "cot/medical_o1_500.jsonl"}],
            "held_out": {"rows": 100},
            "contamination": {"benchmarks": benchmarks},
        }
    )
    prepared = prepare_cases(config, base_folder=shared / "data", seed=3407)
    assert len(prepared.held_out) == 100
    assert len(prepared.train) + len(prepared.contamination) == 400
    assert prepared.summary["contamination"]["items"] == 100 + 3592
    assert len(prepared.contamination) < 20


def test_benchmarks_are_read_whole(shared):
    items, unread = read_items(shared / "data" / "mcq")
    assert (len(items), unread) == (500 + 1500 + 400 + 120 + 400 + 672, 0)


def test_a_benchmark_in_the_training_data_is_found(shared):
    path = "mcq/medqa_us_4op_test_part.jsonl"
    config = DataConfig.model_validate(
        {
            "sources": [
                {"source": "file", "path": path, "limit": 50},
                {"source": "file", "path": "cot/medical_o1_500.jsonl"},
            ],
            "contamination": {"benchmarks": [path]},
        }
    )
    prepared = prepare_cases(config, base_folder=shared / "data", seed=0)
    found = {hit.case_id for hit in prepared.contamination}
    assert {f"medqa_us_4op_test_part.jsonl:{line}" for line in range(1, 51)} <= found
    assert all(case.source == "medical_o1_500.jsonl" for case in prepared.train)

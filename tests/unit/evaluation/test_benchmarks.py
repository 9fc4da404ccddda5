"""Benchmarks from their published forms: what is asked and what is right."""

from __future__ import annotations

import json
from collections import Counter

import pytest

from medimind.errors import EvaluationError, MediMindError
from medimind.evaluation.benchmarks import BENCHMARKS
from medimind.evaluation.benchmarks.benchmark import TableBenchmark
from medimind.evaluation.benchmarks.read import read_benchmark, resolve_commit

REAL = [
    ("medqa", "mcq", 500, {4}),
    ("medmcqa", "mcq", 1500, {4}),
    ("pubmedqa", "mcq", 400, {3}),
    ("mmlu-medical", "mcq", 672, {4}),
    ("mmlu-pro-health", "mcq", 400, {3, 4, 5, 6, 7, 8, 9, 10}),
    ("medxpertqa", "mcq", 120, {10}),
    ("open-diagnosis", "cot", 100, {0}),
]


def write(path, rows):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def lines_of(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


@pytest.mark.parametrize("name", BENCHMARKS)
def test_every_card_says_all(name: str) -> None:
    card = BENCHMARKS[name].card
    assert card.name == name
    for text in (card.title, card.source, card.paper, card.licence, card.split, card.prompt):
        assert text.strip()
    assert card.num_items
    assert card.num_items > 0
    assert card.metric.startswith("accuracy")
    assert card.scoring
    assert card.files


@pytest.mark.parametrize(("name", "folder", "num", "options"), REAL)
def test_published_files_are_read_whole(shared, name, folder, num, options) -> None:
    items = read_benchmark(name, path=shared / "data" / folder)
    assert items.num_available == len(items.cases) == num
    assert {len(case.options) for case in items.cases} == options
    assert len({case.id for case in items.cases}) == num
    for case in items.cases:
        assert case.answer
        if case.options:
            assert case.answer_index is not None
            assert case.options[case.answer_index] == case.answer
        assert not case.response
        assert not case.reasoning
    assert len(items.sha256) == 64


def test_gold_letters_are_the_files_own(shared) -> None:
    """Read a second way, straight from the files."""
    folder = shared / "data" / "mcq"
    rows = lines_of(folder / "medqa_us_4op_test_part.jsonl")
    golds = ["ABCD"[case.answer_index or 0] for case in read_benchmark("medqa", path=folder).cases]
    assert golds == [row["answer_idx"] for row in rows]
    rows = lines_of(folder / "medmcqa_dev_part.jsonl")
    cases = read_benchmark("medmcqa", path=folder).cases
    assert [case.answer_index for case in cases] == [row["cop"] - 1 for row in rows]
    stored = json.loads((folder / "pubmedqa_pqal_part.json").read_text())
    cases = read_benchmark("pubmedqa", path=folder).cases
    assert [case.answer for case in cases] == [row["final_decision"] for row in stored.values()]
    assert [case.id for case in cases] == [f"pubmedqa:{pmid}" for pmid in stored]
    rows = lines_of(folder / "medxpertqa_text_part.jsonl")
    cases = read_benchmark("medxpertqa", path=folder).cases
    assert ["ABCDEFGHIJ"[case.answer_index or 0] for case in cases] == [r["label"][0] for r in rows]
    assert all("Answer Choices" not in case.question for case in cases)
    rows = lines_of(folder / "mmlu_pro_health_part.jsonl")
    cases = read_benchmark("mmlu-pro-health", path=folder).cases
    assert [case.answer for case in cases] == [row["answer"] for row in rows]


def test_pubmedqa_shows_the_abstract_without_its_conclusion(shared) -> None:
    items = read_benchmark("pubmedqa", path=shared / "data" / "mcq")
    stored = json.loads((shared / "data" / "mcq" / "pubmedqa_pqal_part.json").read_text())
    for case, row in zip(items.cases, stored.values(), strict=True):
        assert row["CONTEXTS"][0].strip() in case.question
        assert row["LONG_ANSWER"].strip() not in case.question


def test_a_limit_takes_the_same_items_everywhere(tmp_path) -> None:
    rows = [
        {"question": f"Q{n}", "options": {"A": "x", "B": "y"}, "answer_idx": "A"} for n in range(50)
    ]
    forwards = write(tmp_path / "a" / "medqa_4op.jsonl", rows)
    backwards = write(tmp_path / "b" / "medqa_4op.jsonl", rows[::-1])
    few = {case.id for case in read_benchmark("medqa", path=forwards, limit=10).cases}
    more = read_benchmark("medqa", path=backwards, limit=20)
    assert len(few) == 10
    assert few < {case.id for case in more.cases}
    assert more.num_available == 50
    questions = [case.question for case in more.cases]
    assert questions == sorted(questions, key=lambda text: -int(text[1:]))  # the file's order


def test_rows_that_repeat_keep_ids_of_their_own(tmp_path) -> None:
    row = {"question": "Q", "options": {"A": "x", "B": "y"}, "answer_idx": "A"}
    path = write(tmp_path / "medqa_4op.jsonl", [row, row])
    ids = [case.id for case in read_benchmark("medqa", path=path).cases]
    assert ids[1] == ids[0] + "#2"


def test_a_row_that_is_not_as_published_is_named(tmp_path) -> None:
    rows = [
        {"question": "Q", "options": {"A": "x", "B": "y"}, "answer_idx": "A"},
        {"question": "Q", "options": {"A": "x", "B": "y"}, "answer_idx": "E"},
    ]
    path = write(tmp_path / "medqa_4op.jsonl", rows)
    with pytest.raises(EvaluationError, match=r"medqa_4op\.jsonl:2: .*'answer_idx' names none"):
        read_benchmark("medqa", path=path)


@pytest.mark.parametrize(
    ("cops", "first"), [([0, 1, 3], "A"), ([1, 2, 4], "A"), ([1, 2], None), ([0, 4], None)]
)
def test_medmcqa_counts_from_what_its_rows_say(tmp_path, cops, first) -> None:
    rows = [
        {"question": f"Q{cop}", "opa": "A", "opb": "B", "opc": "C", "opd": "D", "cop": cop}
        for cop in cops
    ]
    path = write(tmp_path / "medmcqa_dev.jsonl", rows)
    if first is None:
        with pytest.raises(EvaluationError, match="may count the options from 0 or from 1"):
            read_benchmark("medmcqa", path=path)
    else:
        assert read_benchmark("medmcqa", path=path).cases[0].answer == first


def test_what_is_missing_is_said(tmp_path) -> None:
    (tmp_path / "other.txt").touch()
    with pytest.raises(EvaluationError, match=r"no file of MedQA .*github.com/jind11"):
        read_benchmark("medqa", path=tmp_path)
    with pytest.raises(EvaluationError, match=r"no benchmark and no file 'medqq'.*medqa"):
        read_benchmark("medqq")
    with pytest.raises(EvaluationError, match=r"not on the hub.*--benchmark-path"):
        read_benchmark("medqa-5")


def test_five_options_from_the_authors_folder(tmp_path) -> None:
    options = dict(zip("ABCDE", ("v", "w", "x", "y", "z")))
    row = {"question": "Q", "options": options, "answer_idx": "E", "meta_info": "step1"}
    write(tmp_path / "questions" / "US" / "test.jsonl", [row])
    (case,) = read_benchmark("medqa-5", path=tmp_path).cases
    assert (case.answer_index, case.answer) == (4, "z")


def hub_rows(name: str):
    """A row of each data set as it lies on the hub."""
    return {
        "medqa": {
            "question": "Q",
            "answer": "x",
            "options": {"A": "x", "B": "y", "C": "z", "D": "w"},
            "meta_info": "step1",
            "answer_idx": "A",
        },
        "pubmedqa": {
            "pubid": 21645374,
            "question": "Is it?",
            "context": {"contexts": ["First.", "Second."], "labels": ["A", "B"]},
            "long_answer": "It is.",
            "final_decision": "yes",
        },
        "mmlu-medical": {
            "question": "Q",
            "subject": "anatomy",
            "choices": ["x", "y", "z", "w"],
            "answer": 0,
        },
        "mmlu-pro-health": {
            "question_id": 5,
            "question": "Q",
            "options": ["x", "y"],
            "answer": "A",
            "answer_index": 0,
            "category": "health",
            "src": "s",
        },
        "medxpertqa": {
            "id": "Text-1",
            "question": "Q\nAnswer Choices: (A) x (B) y",
            "options": {"A": "x", "B": "y"},
            "label": "A",
            "medical_task": "t",
            "body_system": "b",
        },
    }[name]


@pytest.mark.parametrize(
    "name", ["medqa", "pubmedqa", "mmlu-medical", "mmlu-pro-health", "medxpertqa"]
)
def test_the_hubs_form_through_datasets(tmp_path, monkeypatch, name) -> None:
    datasets = pytest.importorskip("datasets")
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    datasets.disable_progress_bars()
    import dataclasses

    folder = tmp_path / "set"
    card = BENCHMARKS[name].card
    rows = [hub_rows(name)]
    if name == "mmlu-pro-health":
        rows.append({**rows[0], "question_id": 6, "category": "law"})
    write(folder / f"{card.hub_split}.jsonl", rows)
    local = dataclasses.replace(card, hub=str(folder), hub_config=None)
    benchmark = BENCHMARKS[name]
    assert isinstance(benchmark, TableBenchmark)
    monkeypatch.setitem(BENCHMARKS, name, dataclasses.replace(benchmark, card=local))
    items = read_benchmark(name)
    (case,) = items.cases
    assert case.answer == ("yes" if name == "pubmedqa" else "x")
    assert items.revision is None
    assert Counter(map(len, [items.sha256]))[64] == 1


def test_a_revision_is_pinned(monkeypatch) -> None:
    class Info:
        sha = "c" * 40

    def dataset_info(self, name, revision=None):
        assert revision in (None, "v1")
        return Info()

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", dataset_info)
    assert resolve_commit("owner/set", None) == "c" * 40
    assert resolve_commit("owner/set", "v1") == "c" * 40
    assert resolve_commit("owner/set", "d" * 40) == "d" * 40  # asks nobody

    def offline(self, name, revision=None):
        raise OSError("no network")

    monkeypatch.setattr("huggingface_hub.HfApi.dataset_info", offline)
    with pytest.raises(EvaluationError, match="pin it as NAME@"):
        resolve_commit("owner/set", None)


def test_own_files_choice_and_open(tmp_path) -> None:
    choice = write(
        tmp_path / "mine.jsonl",
        [{"question": "Q?", "options": ["x", "y"], "answer_idx": "B", "explanation": "because"}],
    )
    items = read_benchmark(str(choice))
    (case,) = items.cases
    assert (case.answer, case.reasoning, case.response) == ("y", "", "")
    assert (items.card.name, items.card.title) == ("mine", "mine.jsonl")
    rows = [
        {"question": "Q1?", "answer": "flu", "aliases": ["influenza", "grippe"]},
        {"question": "Q2?", "answer": "cold", "aliases": "common cold|coryza"},
        {"question": "Q3?", "answer": "gout"},
    ]
    items = read_benchmark(str(write(tmp_path / "open.jsonl", rows)))
    assert [case.metadata.get("aliases") for case in items.cases] == [
        "influenza|grippe",
        "common cold|coryza",
        None,
    ]
    with pytest.raises(MediMindError):
        read_benchmark(str(write(tmp_path / "none.jsonl", [{"question": "Q?"}])))


def test_white_space_of_a_published_row_stays_in_the_wording_of_the_harness(tmp_path) -> None:
    row = {
        "question": "What is it?\n ",
        "options": {"A": "flu", "B": "gout ", "C": "burn", "D": "cyst"},
        "answer_idx": "B",
    }
    path = write(tmp_path / "medqa_4op.jsonl", [row])
    (case,) = read_benchmark("medqa", path=path).cases
    assert (case.question, case.options[1]) == ("What is it?", "gout")
    completion = BENCHMARKS["medqa"].completion(case)
    assert completion is not None
    text = "What is it?\n \nA. flu\nB. gout \nC. burn\nD. cyst"
    assert completion.prompt == f"Question: {text}\nAnswer:"


def test_wordings_of_the_harness(shared) -> None:
    folder = shared / "data" / "mcq"
    case = read_benchmark("pubmedqa", path=folder, limit=1).cases[0]
    completion = BENCHMARKS["pubmedqa"].completion(case)
    assert completion is not None
    assert completion.prompt.startswith("Abstract: ")
    assert completion.continuations == (" yes", " no", " maybe")
    assert BENCHMARKS["medxpertqa"].completion(case) is None


def test_own_file_of_a_benchmarks_name_is_not_that_benchmark(tmp_path) -> None:
    path = tmp_path / "medqa.jsonl"
    path.write_text(json.dumps({"question": "?", "options": {"A": "x", "B": "y"}, "answer": "A"}))
    assert read_benchmark(str(path)).card.name == "medqa.jsonl"
    other = path.rename(tmp_path / "ward.jsonl")
    assert read_benchmark(str(other)).card.name == "ward"

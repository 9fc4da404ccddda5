"""Parts beside the comparison: benchmarks, hints, judges, overlap; the card; compared files."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest
import yaml
from evaluation_builders import PROVENANCE, make_records
from full_report import write_full
from huggingface_hub import ModelCard
from test_report import Page

from medimind.evaluation.arm import summarise_arm
from medimind.evaluation.compare import Agreement, compare_results
from medimind.evaluation.evidence import Evidence
from medimind.evaluation.outputs import rescore
from medimind.evaluation.report import ReportFiles, write_comparison_report
from medimind.evaluation.report.evidence import evidence_sections
from medimind.evaluation.report.sections import arm_sections
from medimind.evaluation.report.verdicts import benchmarks_sentence
from medimind.evaluation.results import ResultSet


@pytest.fixture(scope="module")
def full(tmp_path_factory) -> ReportFiles:
    return write_full(tmp_path_factory.mktemp("full"))


@pytest.fixture(scope="module")
def page(full) -> Page:
    return Page(full.html.read_text(encoding="utf-8"))


def test_every_part_stands_in_the_page_and_in_markdown(full, page) -> None:
    ids = {attributes.get("id") for _, attributes in page.tags}
    markdown = full.markdown.read_text(encoding="utf-8")
    for name, title in (
        ("recall", "Right answers by class"),
        ("calibration", "How sure, how often right"),
        ("reasoning", "How it thinks"),
        ("misled", "A wrong conclusion put into its thinking"),
        ("judges", "Open answers, judged by a model"),
        ("overlap", "Training rows and test items"),
    ):
        assert name in ids
        assert title in page.words
        assert f"## {title}" in markdown
    for text in (markdown, page.words):
        assert "21 of 30 (70.0\N{NO-BREAK SPACE}%)" in text or "21 of 30 (70.0 %)" in text
        assert "undefined" in text
        assert "wrong hint: the thinking is made to begin" in text
        assert "judge: a language model reads the answer" in text
        leak = text.index("1 item of 30 repeated in the training rows (medqa-7)")
        assert leak < text.index("Right answers at a glance")  # before any figure
        # 60 questions are not the benchmark.
        assert "60 of its 1,273 questions; split: test; licence: MIT" in text


def test_better_and_worse_benchmarks_are_told_alike(page) -> None:
    words = page.words
    assert (
        "On benchmarks it answers better on medqa; worse on pubmedqa. Its written answers on "
        "pubmedqa are not shown to be better than guessing. Its likeliest options on held-out "
        "cases, medqa and pubmedqa are not shown to be better than always naming the commonest "
        "right option." in words
    )
    assert "On medqa, written answers are not shown to be better than guessing (25.0 %)" in words
    assert "always naming the commonest right one (100.0 %), for: Base model" in words
    changes = words[words.index("What got better, what got worse") :]
    better, worse = changes.index(" Better "), changes.index(" Worse ")
    gained = changes.index("Right answers, written out MedQA (USMLE, 4 options): 3.3 %")
    lost = changes.index("Right answers, written out PubMedQA (with abstract): 81.7 %")
    assert better < gained < worse < lost
    assert "verdict large mixed" in [a.get("class") for _, a in page.tags]


def test_charts_of_a_section_say_the_same_in_words(page) -> None:
    charts = [
        a["aria-label"] for a in page.all("svg") if "Reliability" in (a.get("aria-label") or "")
    ]
    assert len(charts) == 3
    assert all("calibration error" in (text or "") for text in charts)


def test_figures_of_the_evidence_stand_in_the_json(full) -> None:
    value = json.loads(full.json.read_text(encoding="utf-8"))
    assert value["evidence"]["misled"][0]["followed"] == 21
    assert value["evidence"]["overlaps"][1]["repeated"] == ["medqa-7"]
    assert value["evidence"]["judged"][0]["kappa_with_other"] is None
    assert [one["benchmark"] for one in value["evidence"]["benchmarks"]["comparisons"]] == [
        "medqa",
        "pubmedqa",
    ]


def test_card_is_read_by_the_hubs_own_package(full) -> None:
    assert full.card is not None
    card = ModelCard.load(full.card)
    card.validate = None  # type: ignore[method-assign]  # would ask the hub
    data = card.data
    assert data.base_model == "smollm2-135m-instruct"
    assert data.library_name == "peft"
    results = data.eval_results
    assert results is not None
    found = {(one.dataset_name, one.metric_name): one for one in results}
    assert ("medqa", "Right answers, written out") in found
    one = found["pubmedqa", "Right answers, written out"]
    assert one.metric_args["base_model"] > one.metric_value  # what got worse stands there too
    assert one.metric_args["verdict"] == "worse"
    assert one.metric_args["difference_interval"][1] < 0
    # Not every benchmark is a test split.
    asked = (one.dataset_type, one.dataset_config, one.dataset_split)
    assert asked == ("qiaojin/PubMedQA", "pqa_labeled", "train")
    assert ("held-out cases", "Loss on the gold text") in found
    text = full.card.read_text(encoding="utf-8")
    front = yaml.safe_load(text.split("---")[1])
    assert front["model-index"][0]["name"] == "smollm2-135m-instruct-medimind"
    assert "### Worse" in text
    assert "Not a medical device" in text
    assert "None of the 30 held-out cases" in text


def test_nothing_measured_makes_no_part() -> None:
    assert evidence_sections(Evidence(), ()) == []
    bare = [
        dataclasses.replace(
            r, output=None, status=None, correct=None, likeliest_correct=None, option_logprobs=None
        )
        for r in make_records("base", num=8, right=0.5, loss=2.0, seed=1)
    ]
    assert arm_sections([summarise_arm(bare, name="base", title="Base")]) == []
    assert benchmarks_sentence(()) == ""


def compared(folder: Path, sets, **options) -> tuple[Page, str, dict]:
    files = write_comparison_report(
        folder, compare_results(sets, num_samples=500, **options), sets=sets, provenance=PROVENANCE
    )
    assert files.card is None
    value = json.loads(files.json.read_text(encoding="utf-8"))
    return Page(files.html.read_text("utf-8")), files.markdown.read_text("utf-8"), value


def test_compared_files_get_a_report(tmp_path) -> None:
    sets = [
        ResultSet("llama", tuple(make_records("a", num=40, right=0.2, loss=2.0, seed=1))),
        ResultSet("gguf", tuple(make_records("b", num=40, right=0.9, loss=2.0, seed=2))),
    ]
    page, markdown, value = compared(tmp_path, sets)
    assert "gguf answers better than llama, on 40 cases." in page.words
    assert "gguf against llama" in page.words
    assert "Whether any of these models was trained on the cases" in page.words
    assert markdown.startswith("# gguf answers better")
    assert value["report"]["verdict"] == "improved"
    assert [tag for tag, _ in page.tags].count("article") == 5  # side by side
    assert "versions.torch" in page.words


def test_other_rules_are_shown_of_whatever_was_scored(tmp_path) -> None:
    """Held-out cases without a gold answer do not hide what other rules make of a benchmark."""
    unscored = {
        "kind": "none",
        "gold": None,
        "correct": None,
        "correct_first_match": None,
        "correct_last_match": None,
        "correct_cut_off_read": None,
    }
    sets = []
    for name, seed in (("base", 1), ("tuned", 2)):
        held_out = make_records(name, num=8, right=0.5, loss=2.0, seed=seed)
        asked = make_records(name, num=8, right=0.5, loss=2.0, seed=seed + 2)
        records = [dataclasses.replace(record, **unscored) for record in held_out]
        records += [dataclasses.replace(record, benchmark="medqa") for record in asked]
        sets.append(ResultSet(name, tuple(records)))
    page, markdown, _ = compared(tmp_path, sets)
    for text in (page.words, markdown):
        assert "Right answers by other rules, on the same outputs" in text
        assert "last match anywhere" in text


def test_what_files_do_not_tell_is_not_claimed(tmp_path) -> None:
    """Nobody held their cases out, nor counted their tokens; unread answers are a limit."""
    silent = [
        dataclasses.replace(
            record, num_tokens=None, output="Hm.", answer_part="Hm.", open_in_prompt=None
        )
        for record in make_records("b", num=20, right=0.0, loss=2.0, seed=2)
    ]
    sets = [
        ResultSet("a", tuple(make_records("a", num=20, right=0.5, loss=2.0, seed=1))),
        ResultSet("b", tuple(map(rescore, silent))),
    ]
    page, markdown, value = compared(tmp_path, sets)
    for text in (page.words, markdown):
        assert "eld-out cases" not in text
        assert "The files' cases" in text
        assert " 0 tokens" not in text
        assert "no answer could be read count as wrong" in text
        assert "likeliest option: the one with the highest log-probability in the file" in text
    (limit,) = [one for one in value["report"]["limits"] if "could be read" in one]
    assert "(b)" in limit
    assert "(a)" not in limit


def test_counts_over_other_cases_than_the_comparison_are_told(tmp_path) -> None:
    sets = [
        ResultSet("a", tuple(make_records("a", num=20, right=0.5, loss=2.0, seed=1))),
        ResultSet("b", tuple(make_records("b", num=12, right=0.5, loss=2.0, seed=2))),
    ]
    page, markdown, _ = compared(tmp_path, sets, on_difference="common")
    for text in (page.words, markdown):
        assert "over all cases of its own file (a 20, b 12), not over those in common" in text


def test_several_comparisons_are_counted(tmp_path) -> None:
    sets = [
        ResultSet(name, tuple(make_records(name, num=40, right=right, loss=2.0, seed=1)))
        for name, right in (("a", 0.1), ("b", 0.9), ("c", 0.1))
    ]
    page, _, _ = compared(tmp_path, sets)
    assert "1 of 2 comparisons show a difference in the answers." in page.words
    same = [dataclasses.replace(sets[0], name=name) for name in "abc"]
    page, _, _ = compared(tmp_path, same)
    assert "None of 2 comparisons shows that one model answers better" in page.words


def test_unequal_coverage_is_the_first_thing_said(tmp_path) -> None:
    sets = [
        ResultSet("base", tuple(make_records("a", num=20, right=0.2, loss=2.0, seed=1)), 60),
        ResultSet("after", tuple(make_records("b", num=60, right=0.5, loss=2.0, seed=2)), 60),
    ]
    page, markdown, _ = compared(tmp_path, sets, on_difference="common")
    first = page.words.index("Read this first")
    assert first < page.words.index("Headline figures")
    assert "base was scored on 20 of the 60 cases that its file declares" in page.words
    assert "base was scored on 20 of the 60 cases" in markdown


def test_one_file_with_verdicts_of_its_own(tmp_path) -> None:
    records = tuple(make_records("theirs", num=20, right=0.5, loss=2.0, seed=1))
    verdicts = {(record.case_id, 0): True for record in records}
    page, _, value = compared(tmp_path, [ResultSet("theirs", records, verdicts=verdicts)])
    (agreement,) = value["agreements"]
    told = f"theirs counts 20 as right and our rule {agreement['both_right']}"
    assert told in page.words
    assert "The file's own verdicts" in page.words


def test_many_ids_are_shortened() -> None:
    ids = tuple(f"case-{index}" for index in range(14))
    (section,) = evidence_sections(Evidence(), [Agreement("x", 20, 3, ids, (), 0.1)])
    assert any("and 4 more" in sentence for sentence in section.sentences)

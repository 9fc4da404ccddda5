"""The report: one golden page, hostile text, balanced HTML, the same figures in every format."""

from __future__ import annotations

import copy
import dataclasses
import json
import re
from html.parser import HTMLParser
from itertools import pairwise
from pathlib import Path

import pytest
from evaluation_builders import (
    DATA_SUMMARY,
    PROVENANCE,
    make_case,
    make_curves,
    make_evaluation,
    make_record,
    make_records,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from medimind.errors import EvaluationError
from medimind.evaluation.report import write_report
from medimind.evaluation.report.account import account_of
from medimind.evaluation.report.charts import draw_charts
from medimind.evaluation.report.content import report_content
from medimind.evaluation.report.markdown import escape, fence
from medimind.evaluation.report.training import curve, training_rows
from medimind.evaluation.report.write import html_report, printable

GOLDEN = Path(__file__).with_name("golden_report.md")
VOID = {"meta", "br", "img", "input", "link", "hr"}
HOSTILE = (
    "<script>alert(1)</script></pre></details><img src=x onerror=alert(1)>\"'&amp; "
    "{{ 7*7 }} {% raw %} ``` ```` </style> \x00\x1b[31m\ufffe &#60; | *bold* [x](javascript:0)"
)


def evaluation(num: int = 30, **options):
    before = make_records("base", num=num, right=0.35, loss=2.2, seed=1)
    native = [
        dataclasses.replace(r, loss=None, loss_reasoning=None, loss_response=None)
        for r in make_records("base_native", num=num, right=0.45, loss=2.2, seed=2)
    ]
    after = make_records("tuned", num=num, right=0.55, loss=1.9, seed=3)
    return make_evaluation(before, after, native, **options)


def write(folder: Path, one=None, **changes):
    options = {"curves": make_curves(), "provenance": PROVENANCE, "data_summary": DATA_SUMMARY}
    return write_report(folder, one or evaluation(), **{**options, **changes})


def hostile_evaluation():
    case = make_case(
        0, id=HOSTILE, question=HOSTILE, reasoning=HOSTILE, response=HOSTILE, options=(HOSTILE, "b")
    )
    record = make_record(case, "base", answer=HOSTILE, thinking=HOSTILE)
    record = dataclasses.replace(record, case_id=case.id)
    return make_evaluation([record], [record], cases=[case], notes=(HOSTILE,), warnings=(HOSTILE,))


class Page(HTMLParser):
    """Tags in order; fails on one that is closed in the wrong place."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text: list[str] = []
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag, (tag, self.getpos())

    def handle_data(self, data):
        if not {"style", "script"} & set(self.open):
            self.text.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.tags if name == tag]

    @property
    def words(self) -> str:
        return " ".join(" ".join(self.text).split())


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return write(tmp_path_factory.mktemp("report"))


@pytest.fixture(scope="module")
def page(files) -> Page:
    return Page(files.html.read_text(encoding="utf-8"))


def test_golden_markdown(files) -> None:
    assert files.markdown.read_text(encoding="utf-8") == GOLDEN.read_text(encoding="utf-8")


def test_same_arguments_give_the_same_bytes(files, tmp_path) -> None:
    again = write(tmp_path)
    for name in ("html", "json", "markdown", "card"):
        assert getattr(again, name).read_bytes() == getattr(files, name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model_card.md",
        "report.html",
        "report.json",
        "report.md",
    ]


def test_page_needs_nothing_else(files, page) -> None:
    html = files.html.read_text(encoding="utf-8")
    assert {"script", "link", "img", "iframe", "object"}.isdisjoint(tag for tag, _ in page.tags)
    assert "@import" not in html
    assert not re.search(r"\b(?:src|srcset|action)=", html)
    assert not re.search(r"url\((?!#)", html)
    references = re.findall(r'href="([^"]*)"', html)
    assert references
    assert all(target.startswith("#") for target in references)
    assert "default-src 'none'" in html
    assert len(html) < 400_000


def test_page_structure_for_screen_readers(page) -> None:
    assert page.all("html")[0]["lang"] == "en"
    assert page.words
    names = [tag for tag, _ in page.tags]
    assert names.count("main") == names.count("h1") == 1
    assert "header" in names
    assert "footer" in names
    levels = [int(name[1]) for name in names if re.fullmatch("h[1-6]", name)]
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    assert names.count("table") == names.count("caption") > 0
    assert all("scope" in attributes for attributes in page.all("th"))
    svgs = page.all("svg")
    assert len(svgs) > 10
    drawn = [svg for svg in svgs if svg.get("aria-hidden") != "true"]  # the others are in a key
    assert len(svgs) - len(drawn) == 3
    assert all(svg.get("role") == "img" and svg.get("aria-label") for svg in drawn)
    ids = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(ids) == len(set(ids))
    labelled = [a["aria-labelledby"] for _, a in page.tags if "aria-labelledby" in a]
    assert set(labelled) <= set(ids)
    anchors = [a["href"][1:] for a in page.all("a") if a.get("href")]  # type: ignore[index]
    assert set(anchors) <= set(ids)
    scrolling = [a for _, a in page.tags if a.get("class") == "scroll"]
    assert all(a.get("tabindex") == "0" and a.get("aria-label") for a in scrolling)


def test_headline_comes_first_and_nothing_is_claimed(page) -> None:
    words = page.words
    assert words.index("30 cases cannot show whether") < words.index("Headline figures")
    assert "nothing can be concluded" in words
    assert "predicts the held-out gold text better" in words


def test_figures_agree_in_all_formats(files, page) -> None:
    value = json.loads(files.json.read_text(encoding="utf-8"))
    markdown, words = files.markdown.read_text(encoding="utf-8"), page.words
    for comparison in value["report"]["comparisons"]:
        for row in comparison["rows"]:
            for field in ("before", "after", "difference", "interval", "p_value"):
                shown = " ".join(row[field].split())
                assert escape(row[field]) in markdown
                assert shown in words
    for metric, row in zip(
        value["comparisons"][0]["metrics"], value["report"]["comparisons"][0]["rows"], strict=True
    ):
        if metric["unit"] == "share":
            assert row["before"].startswith(f"{100 * metric['before']:.1f}")
            assert metric["difference"] == pytest.approx(metric["after"] - metric["before"])
        for case_id in (*metric["gained"], *metric["lost"]):
            assert not metric["is_primary"] or case_id in words
    for sentence in value["report"]["limits"]:
        assert " ".join(sentence.split()) in words


def test_worse_is_shown_as_plainly_as_better(tmp_path) -> None:
    good = make_records("base", num=40, right=0.9, loss=1.9, seed=1)
    bad = make_records("tuned", num=40, right=0.2, loss=2.4, seed=2)
    page = Page(write(tmp_path, make_evaluation(good, bad)).html.read_text(encoding="utf-8"))
    assert "The tuned model answers worse, on 40 cases." in page.words
    classes = [a.get("class") for _, a in page.tags]
    assert "verdict large worse" in classes
    assert "card worse" in classes


def test_hostile_text_stays_text(tmp_path) -> None:
    hostile_summary = copy.deepcopy(DATA_SUMMARY)
    hostile_summary["loading"]["sources"][0]["name"] = HOSTILE
    hostile_summary["loading"]["rejection_reasons"] = {HOSTILE: 1}
    files = write(
        tmp_path,
        hostile_evaluation(),
        provenance={HOSTILE: HOSTILE},
        data_summary=hostile_summary,
    )
    html = files.html.read_text(encoding="utf-8")
    page = Page(html)
    assert {"script", "img"}.isdisjoint(tag for tag, _ in page.tags)
    assert not any(name.startswith("on") for _, a in page.tags for name in a)
    assert "<script>alert(1)</script>" in page.words
    assert "{{ 7*7 }}" in page.words
    for path in (files.html, files.json, files.markdown):
        assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f]", path.read_text(encoding="utf-8"))
    json.loads(files.json.read_text(encoding="utf-8"))
    outside = re.sub(
        r"^(`{3,})text\n.*?^\1$",
        "",
        files.markdown.read_text(encoding="utf-8"),
        flags=re.DOTALL | re.MULTILINE,
    )
    assert "<script" not in outside.replace("\\<", "")


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=80))
@settings(deadline=None, max_examples=25)
def test_any_output_gives_a_balanced_page(text: str) -> None:
    case = make_case(0)
    record = make_record(case, "base", answer=text, thinking=text)
    one = make_evaluation([record], [record], cases=[case])
    content = report_content(one, curves=[], provenance={}, data_summary={})
    page = Page(printable(html_report(content, one.examples, curves=[])))
    assert [tag for tag, _ in page.tags].count("article") == 1


def test_printable_keeps_text_and_drops_controls() -> None:
    assert printable("a\r\nb\rc\td") == "a\nb\nc\td"
    assert printable("患者 β 😀") == "患者 β 😀"
    assert printable("\x07\x85\ufffe\U0001ffff\ud800") == "\N{REPLACEMENT CHARACTER}" * 5


def test_fence_cannot_be_closed_from_inside() -> None:
    assert fence("a ````` b").startswith("``````text\n")
    assert escape("a|b\n<c>") == "a\\|b \\<c\\>"


def test_incomplete_coverage_and_notes_are_loud(tmp_path) -> None:
    one = evaluation(warnings=("base holds 32 of 100 cases",), notes=("a note",))
    files = write(tmp_path, one)
    page = Page(files.html.read_text(encoding="utf-8"))
    assert "Not complete: base holds 32 of 100 cases." in page.words
    assert "a note" in page.words
    assert "**Not complete:** base holds 32 of 100 cases." in files.markdown.read_text("utf-8")


def test_report_of_losses_only(tmp_path) -> None:
    bare = [
        dataclasses.replace(
            r, output=None, status=None, correct=None, likeliest_correct=None, option_logprobs=None
        )
        for r in make_records("base", num=8, right=0.5, loss=2.0, seed=1)
    ]
    files = write(tmp_path, make_evaluation(bare, bare), curves=[], provenance={}, data_summary={})
    page = Page(files.html.read_text(encoding="utf-8"))
    assert "Its answers to the held-out cases were not scored." in page.words
    assert "How the answers were read" not in page.words
    assert "cannot show that no held-out case was trained on" in page.words
    assert not any(a.get("id") == "training" for _, a in page.tags)


def test_proof_that_no_case_was_trained_on() -> None:
    account = account_of(DATA_SUMMARY, held_out=["case-001"])
    assert account.is_disjoint is True
    assert account.is_balanced is True
    assert "None of the 1 held-out case" in account.proof[0]
    assert "8-grams" in account.proof[1]
    leaked = account_of({**DATA_SUMMARY, "train_ids": ["a", "b"]}, held_out=["b", "c"])
    assert leaked.is_disjoint is False
    assert "1 held-out case also trained on: b" in leaked.proof[0]
    assert account_of({}, held_out=["a"]).is_disjoint is None


@pytest.mark.parametrize(("action", "word"), [("drop", "left out"), ("warn", "all the same")])
def test_contamination_is_told(action: str, word: str) -> None:
    found = {**DATA_SUMMARY["contamination"], "action": action, "hits": [{"case_id": "x"}]}
    account = account_of({**DATA_SUMMARY, "contamination": found}, held_out=[])
    assert word in account.proof[1]
    assert "not checked" in account_of({"train_ids": []}, held_out=[]).proof[1]


def test_rows_that_do_not_add_up_are_shouted(tmp_path) -> None:
    summary = copy.deepcopy(DATA_SUMMARY)
    summary["loading"]["kept"] = 7
    files = write(tmp_path, data_summary=summary)
    assert "DOES NOT ADD UP" in files.html.read_text(encoding="utf-8")
    assert "does not add up" in files.markdown.read_text(encoding="utf-8")


def test_limits_follow_from_the_evaluation() -> None:
    one = evaluation()
    one = dataclasses.replace(one, num_asked=10)
    content = report_content(one, curves=[], provenance={}, data_summary={})
    assert any("first 10 of 30" in limit for limit in content.limits)
    arm = dataclasses.replace(
        one.arms[1], statuses={"parsed": 10, "unparsed": 0, "cut_off": 20, "unclosed": 0}
    )
    one = dataclasses.replace(one, arms=(arm,))
    content = report_content(one, curves=[], provenance={}, data_summary={})
    assert any("reached the limit of 256 tokens" in limit for limit in content.limits)
    sampled = dataclasses.replace(one.settings, temperature=0.6, top_p=0.95, thinking_budget=None)
    content = report_content(
        dataclasses.replace(one, settings=sampled),
        curves=[],
        provenance={"a": [1, 2]},
        data_summary={},
    )
    assert ("Decoding", "temperature 0.6, top-p 0.95, seed 0") in content.settings
    assert ("a", "1, 2") in content.provenance


def test_training_table_is_the_mean_since_the_row_above() -> None:
    rows = [{"step": step, "train/loss": float(step)} for step in range(1, 13)]
    rows.append({"step": 12, "held_out/loss": 3.0})
    table = training_rows(rows)
    assert [(row.step, row.loss, row.held_out_loss) for row in table] == [
        (10, 5.5, None),
        (12, 11.5, 3.0),
    ]
    assert training_rows([]) == ()


def test_curve_leaves_out_what_is_no_number() -> None:
    rows = [
        {"step": 2, "x": 1.0},
        {"step": 1, "x": float("nan")},
        {"step": "3", "x": 1.0},
        {"x": 2.0},
        {"step": 1, "x": 5},
        {"table": "t"},
    ]
    assert curve(rows, "x") == [(1, 5.0), (2, 1.0)]


def test_charts_take_their_colours_from_the_page() -> None:
    charts = draw_charts(make_curves())
    assert [chart.name for chart in charts] == ["loss", "learning-rate", "gradient-norm"]
    for chart in charts:
        assert "currentColor" in chart.svg
        assert "var(--series-1)" in chart.svg
        assert "#0102" not in chart.svg
        assert "<metadata" not in chart.svg
        assert "from" in chart.text
        assert Page(chart.svg).all("svg")[0]["aria-label"] == chart.text
    assert "held out" in charts[0].svg
    assert draw_charts([{"step": 1, "train/loss": 2.0}])[0].text.startswith("Loss by step")
    assert draw_charts([]) == ()


def test_folder_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(EvaluationError, match="cannot be written"):
        write(tmp_path / "file")

"""Right answers at a glance, and changes figure by figure: gains below a mark are not called so."""

from __future__ import annotations

import dataclasses
import json

import pytest
from evaluation_builders import make_evaluation, make_records

from medimind.evaluation.compare import ResultComparison, compare_results
from medimind.evaluation.evidence import Evidence
from medimind.evaluation.records import HELD_OUT
from medimind.evaluation.report import write_report
from medimind.evaluation.report.changes import changes
from medimind.evaluation.report.compared import compared_content
from medimind.evaluation.report.glance import UNPROVEN, glances, place_text
from medimind.evaluation.report.markdown import markdown_report
from medimind.evaluation.report.verdicts import benchmarks_sentence
from medimind.evaluation.results import ResultSet


def sets(*, after: float, benchmark: str | None = "medqa", num: int = 60) -> list[ResultSet]:
    """Written answers only; one option in four is right."""
    found = []
    for name, right, seed in (("base", 0.0, 1), ("tuned", after, 2)):
        records = [
            dataclasses.replace(
                record, benchmark=benchmark, option_logprobs=None, likeliest_correct=None
            )
            for record in make_records(name, num=num, right=right, loss=2.0, seed=seed)
        ]
        found.append(ResultSet(name, tuple(records)))
    return found


def compared(**options) -> ResultComparison:
    return compare_results(sets(**options), num_samples=500)


@pytest.mark.parametrize(
    ("after", "verdict", "tone"), [(0.3, UNPROVEN, "open"), (0.9, "improved", "better")]
)
def test_a_gain_below_guessing_is_not_called_one(after, verdict, tone) -> None:
    result = compared(after=after)
    assert result.comparisons[0].metric("answer_accuracy").verdict == "improved"
    (one,) = glances(result.comparisons, result.arms)
    assert (one.verdict, one.tone, one.mark, one.mark_name) == (verdict, tone, 0.25, "guessing")
    assert (one.place, one.way, one.about) == ("MedQA (USMLE, 4 options)", "written out", "")
    assert one.text.endswith("; 25.0\N{NO-BREAK SPACE}% by guessing")
    content, _ = compared_content(
        result, sets=sets(after=after), provenance={}, evidence=Evidence()
    )
    assert (content.verdict, content.tone) == (verdict, tone)
    sentence = benchmarks_sentence(result.comparisons, result.arms)
    assert ("no more often than guessing would, on medqa" in sentence) == (tone == "open")
    assert f"| {verdict} |" in markdown_report(content, ())
    # Nor is it called so where the figure stands alone: in a list, a table, a card.
    (row,) = [row for row in content.comparisons[0].rows if row.name == "answer_accuracy"]
    assert (row.verdict, row.tone) == (verdict, tone)
    for sentences in (content.made_better, content.details, (row.sentence,)):
        (told,) = [one for one in sentences if "Right answers, written out" in one]
        assert told.endswith(f"): {verdict}.")
    (line,) = next(one for one in content.changes[0].better if one.title == row.title).lines
    assert line.difference.endswith("no better than guessing") == (tone == "open")
    assert ("not shown to be better than guessing" in content.addition) == (tone == "open")


def test_a_gain_of_form_is_named_so_in_the_summary_and_the_card(tmp_path) -> None:
    base = make_records("base", num=60, right=0.0, loss=2.0, seed=1)
    tuned = make_records("tuned", num=60, right=0.3, loss=2.0, seed=2)
    files = write_report(
        tmp_path, make_evaluation(base, tuned), curves=(), provenance={}, data_summary={}
    )
    figures = json.loads(files.json.read_text("utf-8"))
    assert files.card is not None
    card = files.card.read_text("utf-8")
    (told,) = [s for s in figures["report"]["made_better"] if "Right answers, written" in s]
    assert told.endswith(f": {UNPROVEN}.")
    assert told in card
    results = figures["model_index"][0]["results"]
    (one,) = [r for r in results if r["metrics"][0]["name"] == "Right answers, written out"]
    assert one["metrics"][0]["args"]["verdict"] == UNPROVEN


def test_models_without_options_have_no_mark() -> None:
    result = compared(after=0.9)
    arms = [dataclasses.replace(arm, chance=None) for arm in result.arms]
    (one,) = glances(result.comparisons, arms)
    assert (one.mark, one.shown[2], one.verdict) == (None, "", "improved")
    assert one.text == "0.0\N{NO-BREAK SPACE}% right before, 81.7\N{NO-BREAK SPACE}% after"


def test_several_pairs_are_told_apart() -> None:
    one, two = sets(after=0.9)
    result = compare_results([one, two, dataclasses.replace(two, name="third")], num_samples=500)
    assert [each.about for each in glances(result.comparisons, result.arms)] == [
        "tuned against base",
        "third against base",
    ]


def test_each_figure_stands_once_with_all_its_places() -> None:
    both = [
        dataclasses.replace(
            one,
            records=(
                *one.records,
                *(dataclasses.replace(r, benchmark="ward") for r in one.records),
            ),
        )
        for one in sets(after=0.9)
    ]
    (found,) = changes(compare_results(both, num_samples=500).comparisons)
    assert found.title == "tuned against base"
    first = found.better[0]
    assert first.title == "Right answers, written out"
    assert [line.place for line in first.lines] == ["MedQA (USMLE, 4 options)", "ward"]
    assert first.lines[0].difference.startswith("+81.7 points (+")
    titles = [change.title for change in (*found.better, *found.worse)]
    assert len(titles) == len(set(titles))
    unnamed = dataclasses.replace(compared(after=0.9).comparisons[0], benchmark=None)
    assert place_text(unnamed) == "The files' cases"
    assert place_text(dataclasses.replace(unnamed, unnamed=HELD_OUT)) == "Held-out cases"

"""Comparisons: pairing, verdicts in both directions, Holm, and plain words."""

from __future__ import annotations

import dataclasses
import json
import math

import pytest
from evaluation_builders import make_case, make_evaluation, make_record, make_records

from medimind.evaluation.arm import summarise_arm
from medimind.evaluation.comparison import NOTHING, Sides, compare_records, compare_together
from medimind.evaluation.evaluation import jsonable, summarise
from medimind.evaluation.examples import pick_examples
from medimind.evaluation.metrics import METRICS
from medimind.evaluation.statistics import (
    Interval,
    clustered_standard_error,
    holm,
    mcnemar_exact,
    mcnemar_mid_p,
    sign_flip_test,
)
from medimind.evaluation.wording import (
    count_text,
    difference_text,
    interval_text,
    p_text,
    share_interval_text,
    value_text,
)


def records(arm: str, answers: str, losses: list[float] | None = None):
    """One record a letter: ``B`` is right, any other letter wrong."""
    losses = losses or [2.0 + 0.01 * index for index in range(len(answers))]
    return [
        make_record(make_case(index), arm, answer=f"Answer: {letter}", loss=loss)
        for index, (letter, loss) in enumerate(zip(answers, losses, strict=True))
    ]


def compare(before, after, **options):
    return compare_records(
        before,
        after,
        names=("base", "tuned"),
        titles=("Base model", "Tuned model"),
        num_samples=1000,
        **options,
    )


def test_figures_of_a_binary_metric() -> None:
    metric = compare(records("base", "BBAAAAAA"), records("tuned", "ABBBAAAA")).metric(
        "answer_accuracy"
    )
    assert metric is not None
    assert (metric.before, metric.after, metric.num_cases) == (2 / 8, 3 / 8, 8)
    assert metric.gained == ("case-002", "case-003")
    assert metric.lost == ("case-000",)
    assert metric.p_value == mcnemar_mid_p(2, 1)
    assert metric.exact_p_value == mcnemar_exact(2, 1)
    assert metric.verdict == NOTHING
    assert metric.detectable >= 5 / 8
    assert "nothing can be concluded" in metric.sentence


def test_gain_and_drop_are_judged_alike() -> None:
    low, high = records("base", "A" * 20 + "B" * 5), records("tuned", "B" * 25)
    gain, drop = compare(low, high), compare(high, low)
    up, down = gain.metric("answer_accuracy"), drop.metric("answer_accuracy")
    assert up is not None
    assert down is not None
    assert (up.verdict, down.verdict) == ("improved", "worse")
    assert up.difference == -down.difference
    assert up.p_value == down.p_value
    assert up.gained == down.lost
    assert summarise([gain]).answers == "improved"
    worse = summarise([drop])
    assert worse.answers == "worse"
    assert worse.made_worse
    assert "answers worse" in worse.headline


def test_falling_loss_is_an_improvement() -> None:
    before = records("base", "A" * 20)
    after = records(
        "tuned", "A" * 20, [r.loss - 0.3 - 0.01 * (i % 3) for i, r in enumerate(before)]
    )
    metric = compare(before, after).metric("loss")
    assert metric is not None
    assert metric.verdict == "improved"
    assert metric.interval is not None
    assert metric.interval.high < 0
    summary = summarise([compare(before, after)])
    assert summary.text == "improved"
    assert summary.answers == NOTHING
    assert "cannot show" in summary.headline
    assert "predicts the held-out gold text better" in summary.addition


def test_too_few_cases_conclude_nothing() -> None:
    before = records("base", "AAAAA", [2.0, 2.1, 2.2, 2.3, 2.4])
    after = records("tuned", "BBBBB", [1.0, 1.0, 1.2, 1.2, 1.3])
    assert {metric.verdict for metric in compare(before, after).metrics} == {NOTHING}


def test_one_case_has_no_interval() -> None:
    metric = compare(records("base", "A"), records("tuned", "B")).metric("answer_accuracy")
    assert metric is not None
    assert metric.interval is None
    assert math.isinf(metric.detectable)
    assert jsonable(dataclasses.asdict(metric))["detectable"] is None


def test_unchanged_cases_have_no_interval_and_say_so() -> None:
    metric = compare(records("base", "ABAB"), records("tuned", "ABAB")).metric("answer_accuracy")
    assert metric is not None
    assert metric.interval is None
    assert "the same in every case" in metric.sentence


@pytest.mark.parametrize(("was", "now", "verdict"), [("B", "A", "worse"), ("A", "B", "improved")])
def test_a_change_in_every_case_is_no_less_than_one_in_most(was, now, verdict) -> None:
    """There is no spread to resample, and yet nothing is plainer."""
    found = compare(records("base", was * 20), records("tuned", now * 20))
    metric = found.metric("answer_accuracy")
    assert metric is not None
    assert metric.interval is None
    assert abs(metric.difference) == 1
    assert metric.adjusted_p_value < 1e-4
    assert metric.verdict == verdict
    assert "by as much in every case" in metric.sentence


def test_smallest_difference_that_would_show_counts_the_figures_it_is_adjusted_with() -> None:
    before = records("base", "AB" * 50)
    alone = compare(before, records("tuned", "AB" * 45 + "BA" * 5)).metric("answer_accuracy")
    sides = [
        Sides(before, records("tuned", "AB" * 45 + "BA" * 5), ("base", name), ("Base", name))
        for name in ("one", "two", "three")
    ]
    together = compare_together(sides, num_samples=100)[0].metric("answer_accuracy")
    assert alone is not None
    assert together is not None
    assert together.detectable > alone.detectable
    # What it names is enough: so many cases gained and none lost pass Holm's first step.
    gained = math.ceil(round(together.detectable * 100, 9))
    assert mcnemar_mid_p(gained, 0) * 3 * len([m for m in METRICS if m.is_primary]) < 0.05


def test_three_cases_cannot_show_anything_and_say_so() -> None:
    metric = compare(records("base", "AAA"), records("tuned", "BBB")).metric("answer_accuracy")
    assert metric is not None
    assert metric.verdict == NOTHING
    assert "cannot show any difference" in metric.sentence
    assert "points would mostly" not in metric.sentence


def sampled(arm: str, answers: list[str]):
    """Several outputs a case: ``BBA`` is right twice and wrong once."""
    return [
        make_record(make_case(index), arm, answer=f"Answer: {letter}", sample=sample)
        for index, letters in enumerate(answers)
        for sample, letter in enumerate(letters)
    ]


def test_several_outputs_of_a_case_are_one_case() -> None:
    before, after = ["AAA", "BBA", "AAB", "BBB"] * 5, ["ABB", "BBB", "AAB", "AAB"] * 5
    metric = compare(sampled("base", before), sampled("tuned", after)).metric("answer_accuracy")
    assert metric is not None
    assert (metric.num_cases, metric.samples, metric.is_binary) == (20, 3, False)
    assert metric.before == pytest.approx(6 / 12)
    assert metric.difference == pytest.approx(7 / 12 - 6 / 12)
    means = [2 / 3, 1 / 3, 0, -2 / 3] * 5
    assert metric.p_value == sign_flip_test(means, num_samples=1000, mid_p=True)
    assert metric.exact_p_value is None
    assert metric.gained == tuple(f"case-{i:03d}" for i in range(0, 20, 4))
    assert metric.lost == tuple(f"case-{i:03d}" for i in range(3, 20, 4))
    outputs = [
        (right == "B") - (left == "B")
        for one, other in zip(before, after, strict=True)
        for left, right in zip(one, other, strict=True)
    ]
    error = clustered_standard_error(outputs, [index // 3 for index in range(60)])
    assert metric.standard_error == pytest.approx(error * math.sqrt(20 / 19), abs=1e-12)
    assert "n = 20, 3 outputs each" in metric.sentence


def test_copies_of_an_output_add_no_certainty() -> None:
    """Three copies of each output give the figures of one."""
    one, other = ["A", "B", "A", "A", "A", "B"] * 4, ["B", "B", "B", "A", "B", "A"] * 4
    single = compare(sampled("base", one), sampled("tuned", other)).metric("answer_accuracy")
    tripled = compare(
        sampled("base", [3 * letter for letter in one]),
        sampled("tuned", [3 * letter for letter in other]),
    ).metric("answer_accuracy")
    assert single is not None
    assert tripled is not None
    assert single.interval == tripled.interval
    assert single.standard_error == pytest.approx(tripled.standard_error, abs=1e-12)
    assert (single.gained, single.lost) == (tripled.gained, tripled.lost)


def test_holm_counts_all_comparisons_made_together() -> None:
    before, after = records("base", "A" * 12 + "B" * 18), records("tuned", "B" * 8 + "A" * 22)
    worse = Sides(before, after, ("a", "b"), ("A", "B"), benchmark="medqa")
    same = Sides(before, before, ("a", "c"), ("A", "C"), benchmark="medmcqa")
    alone = compare_together([worse], num_samples=500)[0].metric("answer_accuracy")
    among = compare_together([worse] + [same] * 9, num_samples=500)
    metric = among[0].metric("answer_accuracy")
    assert alone is not None
    assert metric is not None
    assert metric.p_value == alone.p_value
    p_values = [m.p_value for c in among for m in c.metrics if m.is_primary]
    assert (
        metric.adjusted_p_value
        == holm(p_values)[[m.name for m in among[0].metrics].index("answer_accuracy")]
    )
    assert metric.adjusted_p_value > alone.adjusted_p_value
    assert among[0].benchmark == "medqa"


def test_adjusted_p_values_are_holms_within_each_group() -> None:
    before = make_records("base", num=40, right=0.3, loss=2.2, seed=1)
    after = make_records("tuned", num=40, right=0.7, loss=1.9, seed=2)
    metrics = compare(before, after).metrics
    for is_primary in (True, False):
        group = [metric for metric in metrics if metric.is_primary == is_primary]
        assert [m.adjusted_p_value for m in group] == holm([m.p_value for m in group])
    neutral = next(metric for metric in metrics if metric.name == "num_tokens")
    assert neutral.better is None
    assert neutral.verdict in (NOTHING, "higher", "lower")


def test_neutral_figures_are_higher_or_lower() -> None:
    before, after = records("base", "A" * 20), records("tuned", "A" * 20)
    after = [dataclasses.replace(r, num_tokens=90 + i % 3) for i, r in enumerate(after)]
    comparison = compare(before, after)
    metric = comparison.metric("num_tokens")
    assert metric is not None
    assert metric.verdict == "higher"
    assert not summarise([comparison]).made_worse


def test_only_pairs_count_and_partial_metrics_are_told() -> None:
    before = records("base", "ABAB")
    after = [dataclasses.replace(r, loss=None) for r in records("tuned", "ABAB")[:3]]
    comparison = compare(before, after)
    assert comparison.num_cases == 3
    assert comparison.metric("loss") is None
    after[0] = dataclasses.replace(after[0], loss=1.0)
    partial = compare(before, after)
    assert any("Loss on the gold text" in warning for warning in partial.warnings)


def test_records_without_answers_have_no_accuracy() -> None:
    bare = [
        dataclasses.replace(
            r,
            output=None,
            correct=None,
            likeliest_correct=None,
            option_logprobs=None,
            well_formed=None,
        )
        for r in records("base", "AAAA")
    ]
    comparison = compare(bare, bare)
    assert {metric.name for metric in comparison.metrics} == {
        "loss",
        "loss_reasoning",
        "loss_response",
    }
    summary = summarise([comparison])
    assert summary.answers is None
    assert "not scored" in summary.headline
    nothing = summarise([compare(bare, [])])
    assert nothing.headline.startswith("Nothing was measured")


def test_a_better_loss_does_not_hide_answers_that_got_worse() -> None:
    """Pain 17: a good loss and rubbish answers."""
    before = records("base", "B" * 24)
    after = records("tuned", "A" * 20 + "B" * 4, losses=[1.0] * 24)
    comparison = compare(before, after)
    loss = comparison.metric("loss")
    assert loss is not None
    assert loss.verdict == "improved"
    summary = summarise([comparison])
    assert summary.answers == "worse"
    assert "worse" in summary.headline
    assert "better" not in summary.headline


def test_mixed_when_one_measure_rises_and_another_falls() -> None:
    before = [
        dataclasses.replace(r, likeliest_correct=True) for r in records("base", "A" * 20 + "B" * 4)
    ]
    after = [
        dataclasses.replace(r, likeliest_correct=i >= 15)
        for i, r in enumerate(records("tuned", "B" * 24))
    ]
    summary = summarise([compare(before, after)])
    assert summary.answers == "mixed"
    assert "by one measure and worse by another" in summary.headline
    assert summary.details[0].endswith("worse.")


def test_arm_summary_counts_over_a_fixed_denominator() -> None:
    arm = make_records("base", num=50, right=0.5, loss=2.0, seed=3)
    summary = summarise_arm(arm, name="base", title="Base model")
    assert sum(summary.statuses.values()) == summary.num_asked == 50
    assert summary.correct == sum(r.correct is True for r in arm)
    assert summary.sensitivity[0].correct == summary.correct
    assert {count.num_cases for count in summary.sensitivity} == {50}
    assert summary.interval is not None
    assert summary.interval.low <= summary.correct / 50 <= summary.interval.high


def test_examples_are_picked_by_rule_lost_first() -> None:
    before, after = records("base", "BAABB"), records("tuned", "ABABB")
    evaluation = make_evaluation(before, after, num_examples=5)
    assert [(e.case_id, e.why) for e in evaluation.examples] == [
        ("case-000", "lost"),
        ("case-001", "gained"),
        ("case-002", "wrong both times"),
        ("case-003", "right both times"),
        ("case-004", "right both times"),
    ]
    assert [output.arm for output in evaluation.examples[0].outputs] == ["base", "tuned"]


def test_unscored_cases_are_shown_as_such() -> None:
    before = [dataclasses.replace(r, correct=None) for r in records("base", "AA")]
    found = {r.case_id: r for r in before}
    examples = pick_examples(
        [make_case(0), make_case(1), make_case(2)],
        before=found,
        after=found,
        arms=[("base", "Base model", found)],
        num=3,
    )
    assert [example.why for example in examples] == ["not scored", "not scored"]


def test_evaluation_is_json() -> None:
    evaluation = make_evaluation(records("base", "AB"), records("tuned", "BB"))
    value = json.loads(json.dumps(evaluation.to_dict(), allow_nan=False))
    assert value["case_ids"] == ["case-000", "case-001"]
    assert value["comparisons"][0]["metrics"][0]["name"] == "answer_accuracy"
    assert evaluation.main is evaluation.comparisons[0]
    assert jsonable({"a": (float("nan"), {"b": object})}) == {"a": [None, {"b": str(object)}]}


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.4667, "share", "46.7\N{NO-BREAK SPACE}%"),
        (2.1539, "nats", "2.154"),
        (1312.04, "tokens", "1,312.0"),
        (float("inf"), "share", "unknown"),
    ],
)
def test_value_text(value: float, unit, text: str) -> None:
    assert value_text(value, unit) == text


def test_signs() -> None:
    assert difference_text(0.1333, "share") == "+13.3 points"
    assert difference_text(-0.2119, "nats") == "−0.212"
    assert difference_text(-0.00001, "share") == "0.0 points"
    assert interval_text(Interval(-0.033, 0.3), "share") == "−3.3 to +30.0"
    assert share_interval_text(Interval(0.29, 0.654)) == "29 to 65"
    assert value_text(0.2, "share", is_difference=True) == "20.0 points"


@pytest.mark.parametrize(
    ("p", "text"), [(0.0001, "< 0.001"), (0.0041, "0.004"), (0.29, "0.29"), (1.0, "1.00")]
)
def test_p_text(p: float, text: str) -> None:
    assert p_text(p) == text


def test_count_text() -> None:
    assert count_text(1, "case") == "1 case"
    assert count_text(1200, "case") == "1,200 cases"
    assert count_text(0, "entry", plural="entries") == "0 entries"

"""Conclusions of a thinking, by a rule and never by guess, and wrong hints."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import pytest
from evaluation_builders import OPTIONS, make_case, make_record

from medimind.engines.engine import Decoding, Reply, Request, Variant
from medimind.errors import EvaluationError
from medimind.evaluation.arm import class_recalls, summarise_arm
from medimind.evaluation.misled import ask_misled, summarise_misled, wrong_hint, wrong_option
from medimind.evaluation.outputs import rescore
from medimind.evaluation.reasoning import agreement, conclusion_of, describe_reasoning, thinking_of
from medimind.evaluation.report.sections import arm_sections

CONCLUDED = [
    ("Her calf is swollen. So the answer is B.", "B"),
    ("Not the heart. This must be a pulmonary embolism.", "B"),
    ("Pericarditis is possible.\nBut option B fits best.", "B"),
    ("A dissection tears. The answer is (C), an aortic dissection.", "C"),
    ("It is rather pulmonary embolism than pneumonia. I am done.", "B"),
    ("This is not pericarditis but pulmonary embolism.", "B"),
]
NOT_CONCLUDED = [
    "",
    "She flew for eleven hours.",
    "It could be pericarditis or pulmonary embolism.",
    "This is not a pulmonary embolism.",
    "Option B is unlikely.",
    "Pulmonary embolism. " + "One. Two. Three. Four. Five. Six. ",
    "A swollen calf.",
]


@pytest.mark.parametrize(("thinking", "expected"), CONCLUDED)
def test_conclusion(thinking: str, expected: str) -> None:
    assert conclusion_of(thinking, options=OPTIONS) == expected


@pytest.mark.parametrize("thinking", NOT_CONCLUDED)
def test_no_conclusion_is_guessed(thinking: str) -> None:
    assert conclusion_of(thinking, options=OPTIONS) is None


def test_conclusion_needs_options() -> None:
    assert conclusion_of("The answer is B.", options=()) is None
    assert conclusion_of("The answer is B.", options=("", "", "", "")) == "B"


def test_agreement_of_conclusion_and_answer() -> None:
    def one(index: int, thinking: str, answer: str, **changes):
        return make_record(make_case(index), "a", thinking=thinking, answer=answer, **changes)

    records = [
        one(0, "So it is a pulmonary embolism.", "Answer: B"),
        one(1, "So it is a pulmonary embolism.", "Answer: C"),
        one(2, "So it is pericarditis.", "Answer: B"),
        one(3, "She flew.", "Answer: B"),
        one(4, "So it is a pulmonary embolism.", "I do not know.", loop_tokens=20),
        one(5, "So it is a pulmonary embolism.", "", well_formed=False),
    ]
    assert [agreement(record) for record in records] == [True, False, False, None, None, None]
    assert thinking_of(records[0]) == "So it is a pulmonary embolism."
    found = describe_reasoning(records)
    assert (found.num_outputs, found.num_thinking, found.num_well_formed) == (6, 6, 5)
    assert (found.num_concluded, found.num_agreeing) == (3, 1)
    assert found.disagreeing == ("case-001", "case-002")
    assert (found.right_despite, found.wrong_despite) == (1, 1)
    assert found.num_loops == 1
    assert found.median_tokens == 20


def test_recall_of_each_letter_and_what_the_model_favours() -> None:
    records = [
        make_record(make_case(index), "a", answer=f"Answer: {said}", gold=gold)
        for index, (gold, said) in enumerate(["BB", "BB", "BC", "AB", "AA", "CB"])
    ]
    records = [
        dataclasses.replace(record, correct=record.extracted == record.gold) for record in records
    ]
    found = class_recalls(records)
    assert [(one.num, one.correct, one.chosen) for one in found] == [
        (2, 1, 1),
        (3, 2, 4),
        (1, 0, 1),
        (0, 0, 0),
    ]
    assert found[0].label == "A (Pericarditis)"
    summary = summarise_arm(records, name="a", title="A")
    assert summary.balanced == pytest.approx((1 / 2 + 2 / 3 + 0) / 3)
    assert class_recalls([]) == ()


def test_interval_of_several_outputs_is_clustered() -> None:
    answers = ["BBB", "AAA"] * 10
    records = [
        make_record(make_case(index), "a", answer=f"Answer: {letter}", sample=sample)
        for index, letters in enumerate(answers)
        for sample, letter in enumerate(letters)
    ]
    several = summarise_arm(records, name="a", title="A").interval
    single = summarise_arm(records[::3], name="a", title="A").interval
    assert several is not None
    assert single is not None
    # Copies add no certainty: at least as wide as with one output each.
    assert several.high - several.low >= single.high - single.low


class Gullible:
    """An engine that answers what its thinking begins with, or always the same."""

    name = "gullible"
    variants: tuple[Variant, ...] = ("base", "tuned")

    def __init__(self, *, follows: bool = True, stop_after: int | None = None) -> None:
        self.follows = follows
        self.stop_after = stop_after
        self.asked: list[Request] = []

    def identity(self, variant: Variant) -> str:
        return f"gullible/{variant}"

    def answer(
        self,
        requests: Sequence[Request],
        *,
        decoding: Decoding,
        variant: Variant = "base",
        on_reply: Callable[[int, Reply], None] | None = None,
    ) -> list[Reply]:
        replies = []
        for index, request in enumerate(requests):
            if self.stop_after is not None and index >= self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(request)
            letter = request.prefill.split("answer is ")[1][0] if self.follows else "B"
            reply = Reply(
                f"Yes.\n</think>\n\nAnswer: {letter}", "stop", 9, 5, 0.1, open_in_prompt=True
            )
            replies.append(reply)
            if on_reply is not None:
                on_reply(index, reply)
        return replies


DECODING = Decoding(max_new_tokens=20)


def test_wrong_options_are_wrong_spread_and_always_the_same() -> None:
    picked = [wrong_option(f"case-{i}", gold=1, num_options=4) for i in range(200)]
    assert set(picked) == {0, 2, 3}
    assert picked == [wrong_option(f"case-{i}", gold=1, num_options=4) for i in range(200)]
    with pytest.raises(ValueError, match="two options"):
        wrong_option("x", gold=0, num_options=1)
    assert "So the answer is " in wrong_hint(make_case(0))
    with pytest.raises(ValueError, match="no right option"):
        wrong_hint(make_case(0, answer_index=None))


def ask(engine, folder, num: int = 12, **changes):
    return ask_misled(
        engine,
        [make_case(index) for index in range(num)],
        arm="base",
        variant="base",
        decoding=DECODING,
        folder=folder,
        **changes,
    )


def test_effect_of_wrong_hints(tmp_path) -> None:
    plain = [make_record(make_case(index), "base", answer="Answer: B") for index in range(12)]
    led = summarise_misled(ask(Gullible(), tmp_path / "a"), plain, name="base", title="Base")
    assert led is not None
    assert (led.num_cases, led.followed, led.same_without) == (12, 12, 0)
    assert (led.right, led.right_without) == (0, 12)
    assert led.difference == 1
    assert led.p_value == 2**-12
    firm = ask(Gullible(follows=False), tmp_path / "b", opening="<think>\n")
    unmoved = summarise_misled(firm, plain, name="base", title="Base")
    assert unmoved is not None
    assert (unmoved.followed, unmoved.right, unmoved.difference, unmoved.interval) == (
        0,
        12,
        0,
        None,
    )
    assert summarise_misled(firm, [], name="base", title="Base") is None
    assert all(record.output and record.output.startswith("<think>\nThe find") for record in firm)


def test_outputs_without_an_answer_show_no_resistance_to_hints(tmp_path) -> None:
    """A model that never comes to an answer follows no hint either."""
    plain = [make_record(make_case(index), "base", answer="Answer: B") for index in range(12)]
    firm = ask(Gullible(follows=False), tmp_path, opening="<think>\n")
    mute = [rescore(dataclasses.replace(one, finish_reason="length")) for one in firm]
    resists = summarise_misled(firm, plain, name="base", title="Base model")
    silent = summarise_misled(mute, plain, name="tuned", title="Tuned model")
    assert resists is not None
    assert silent is not None
    assert resists.followed == silent.followed == 0
    assert (resists.read, silent.read, silent.read_without) == (12, 0, 12)
    (section,) = arm_sections([], [resists, silent])
    assert [one.split(":")[0] for one in section.warnings] == ["Tuned model"]
    assert "read in 0 of 12 outputs" in section.warnings[0]


def test_wrong_hints_go_on_after_a_kill(tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        ask(Gullible(stop_after=5), tmp_path)
    engine = Gullible()
    records = ask(engine, tmp_path)
    assert len(records) == 12
    assert len(engine.asked) == 7
    again = Gullible()
    assert ask(again, tmp_path) == records
    assert again.asked == []


def test_cases_without_options_are_not_hinted_at(tmp_path) -> None:
    open_case = make_case(0, options=(), answer_index=None)
    found = ask_misled(
        Gullible(), [open_case], arm="a", variant="base", decoding=DECODING, folder=tmp_path
    )
    assert found == ()


def test_folder_of_hints_that_cannot_be_written(tmp_path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match="cannot be written"):
        ask(Gullible(), tmp_path / "file")

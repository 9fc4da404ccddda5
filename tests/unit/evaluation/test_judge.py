"""Judges: both orders, verdicts read by a rule, two judges' agreement; no network."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence

import pytest
from evaluation_builders import make_case, make_record

from medimind.engines.engine import Decoding, Reply, Request, Variant
from medimind.errors import EvaluationError
from medimind.evaluation.judge import Judge, ask_judges, summarise_judged
from medimind.evaluation.judge.rubric import judge_prompt, read_verdict
from medimind.evaluation.score import score


class Opinion:
    """An engine that says what a function of the prompt says."""

    name = "opinion"
    variants: tuple[Variant, ...] = ("base",)

    def __init__(self, says: Callable[[str], str], *, stop_after: int | None = None) -> None:
        self.says = says
        self.stop_after = stop_after
        self.prompts: list[str] = []
        self.most = 0

    def identity(self, variant: Variant) -> str:
        return "opinion"

    def answer(
        self,
        requests: Sequence[Request],
        *,
        decoding: Decoding,
        variant: Variant = "base",
        on_reply: Callable[[int, Reply], None] | None = None,
    ) -> list[Reply]:
        assert decoding.temperature == 0
        self.most = decoding.max_new_tokens
        replies = []
        for index, request in enumerate(requests):
            if self.stop_after is not None and index >= self.stop_after:
                raise KeyboardInterrupt
            prompt = request.messages[-1].content
            self.prompts.append(prompt)
            said = self.says(prompt)
            finish = "length" if said == "cut" else "stop"
            reply = Reply(f"<think>Hm.</think>One reads.\nVerdict: {said}", finish, 1, 1, 0.0)
            replies.append(reply)
            if on_reply is not None:
                on_reply(index, reply)
        return replies


def texts(prompt: str) -> tuple[str, str]:
    first = prompt.split("Text 1:\n")[1].split("\n\nText 2:")[0]
    second = prompt.split("Text 2:\n")[1].split("\n\nDo both")[0]
    return first, second


def knows(prompt: str) -> str:
    return "same" if any("PE" in text for text in texts(prompt)) else "different"


def open_record(index: int, answer: str, *, arm: str = "base", **changes):
    case = make_case(index, options=(), answer_index=None)
    record = make_record(
        case, arm, answer=answer, kind="open", options=(), gold="Pulmonary embolism", **changes
    )
    return score(record, closed=bool(answer))


RECORDS = [
    open_record(0, "It is a PE."),
    open_record(1, "It is pericarditis."),
    open_record(2, "A pulmonary embolism."),
    open_record(3, ""),
    open_record(4, "It is a PE.", finish_reason="length"),
]


@pytest.mark.parametrize(
    ("reply", "expected"),
    [
        ("Because.\nVerdict: same", "same"),
        ("**Verdict: Different**", "different"),
        ("Verdict: same\nNo.\nVerdict: different.", "different"),
        ("<think>Verdict: same</think>\nI cannot say.", "unreadable"),
        ("The verdict is same or different", "unreadable"),
        ("same", "unreadable"),
        ("", "unreadable"),
    ],
)
def test_verdicts(reply: str, expected: str) -> None:
    assert read_verdict(reply) == expected


def test_both_texts_stand_in_both_places() -> None:
    one = judge_prompt("Dx?", gold="PE", answer="Embolism {x}", order="gold_first")
    other = judge_prompt("Dx?", gold="PE", answer="Embolism {x}", order="answer_first")
    assert texts(one) == ("PE", "Embolism {x}")
    assert texts(other) == ("Embolism {x}", "PE")
    long = judge_prompt("Dx?", gold="PE", answer="x" * 9000 + "END", order="gold_first")
    assert len(long) < 6000
    assert "END" in long


def test_only_read_answers_are_judged_and_all_count(tmp_path) -> None:
    judge = Judge("one", Opinion(knows))
    judgements = ask_judges([judge], RECORDS, folder=tmp_path)
    # Three answers, each in two orders; the unclosed and the cut-off one are wrong unasked.
    assert len(judgements) == 6
    (found,) = summarise_judged(RECORDS, judgements)
    assert (found.num_open, found.num_judged, found.right, found.turned) == (5, 3, 1, 0)
    assert found.interval.low < 1 / 5 < found.interval.high
    # Words find none of the abbreviation... but the table of abbreviations does.
    assert found.right_by_rule == 2
    assert found.other is None


def test_a_verdict_that_turns_with_the_order_is_wrong_and_counted(tmp_path) -> None:
    likes_gold_first = Opinion(
        lambda prompt: "same" if texts(prompt)[0] == "Pulmonary embolism" else "different"
    )
    judgements = ask_judges([Judge("biased", likes_gold_first)], RECORDS, folder=tmp_path)
    (found,) = summarise_judged(RECORDS, judgements)
    assert (found.right, found.turned) == (0, 3)


def test_two_judges_and_their_agreement(tmp_path) -> None:
    judges = [Judge("one", Opinion(knows)), Judge("two", Opinion(lambda prompt: "same"))]
    both = [*RECORDS, *(open_record(i, "It is a PE.", arm="tuned") for i in range(2))]
    found = summarise_judged(both, ask_judges(judges, both, folder=tmp_path))
    assert [(one.judge, one.arm, one.right) for one in found] == [
        ("one", "base", 1),
        ("two", "base", 3),
        ("one", "tuned", 2),
        ("two", "tuned", 2),
    ]
    assert found[0].other == "two"
    # 1 and 3 of 5 right, agreeing on 3: (0.6 - 0.44) / (1 - 0.44).
    assert found[0].kappa_with_other == pytest.approx(0.16 / 0.56, abs=1e-12)
    assert math.isnan(found[2].kappa_with_other or 0)


def test_unreadable_and_cut_off_verdicts_are_wrong(tmp_path) -> None:
    for name, said in (("vague", "perhaps"), ("long", "cut")):
        judgements = ask_judges(
            [Judge(name, Opinion(lambda prompt, said=said: said))], RECORDS, folder=tmp_path
        )
        (found,) = summarise_judged(RECORDS, judgements)
        assert (found.right, found.unreadable) == (0, 3)


def test_judging_goes_on_after_a_kill(tmp_path) -> None:
    with pytest.raises(KeyboardInterrupt):
        ask_judges([Judge("one", Opinion(knows, stop_after=4))], RECORDS, folder=tmp_path)
    path = tmp_path / "one.jsonl"
    path.write_bytes(path.read_bytes() + b'{"key": "torn')
    engine = Opinion(knows)
    found = ask_judges([Judge("one", engine)], RECORDS, folder=tmp_path)
    assert (len(found), len(engine.prompts)) == (6, 2)
    assert all(json.loads(line) for line in path.read_text().splitlines())
    again = Opinion(knows)
    assert ask_judges([Judge("one", again)], RECORDS, folder=tmp_path) == found
    assert again.prompts == []


def test_a_longer_reply_is_another_judgement(tmp_path) -> None:
    short, long = Opinion(knows), Opinion(knows)
    for engine, most in ((short, 1024), (long, 4096)):
        ask_judges([Judge("one", engine, most)], RECORDS, folder=tmp_path)
    assert len(short.prompts) == len(long.prompts) == 6
    assert (short.most, long.most) == (1024, 4096)


def test_judges_of_one_name_and_unwritable_folders(tmp_path) -> None:
    judge = Judge("one", Opinion(knows))
    with pytest.raises(EvaluationError, match="same name: one"):
        ask_judges([judge, judge], RECORDS, folder=tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(EvaluationError, match="cannot be written"):
        ask_judges([judge], RECORDS, folder=tmp_path / "file")
    assert summarise_judged(RECORDS, []) == ()

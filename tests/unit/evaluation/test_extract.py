"""The strict extractor: what it reads, and everything it refuses to guess."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter

import pytest
from evaluation_builders import OPTIONS, make_case, make_record
from hypothesis import given, settings
from hypothesis import strategies as st

from medimind.evaluation.extract import (
    answer_status,
    extract_choice,
    find_answer_line,
    first_match,
    is_open_answer_right,
    last_match,
    read_choice,
)
from medimind.evaluation.score import case_kind, gold_answer, gold_of, score
from medimind.prompts.parse import parse_output

READABLE = [
    ("Answer: B", 1),
    ("answer: b", 1),
    ("ANSWER : B.", 1),
    ("Answer：B", 1),
    ("**Answer: B**", 1),
    ("**Answer:** B", 1),
    ("### Final Answer: (B)", 1),
    ("The final answer is: B", 1),
    ("The correct answer is B.", 1),
    ("The correct answer is **B. Pulmonary embolism**.", 1),
    ("Answer: Option B", 1),
    ("Answer: $\\boxed{B}$", 1),
    ("Answer: \\boxed{\\text{B}}", 1),
    ("> Answer: [B]", 1),
    ("Answer: B. Pulmonary embolism", 1),
    ("Answer: B) Pulmonary embolism, because of the swollen calf", 1),
    ("Answer: (B) Pulmonary embolism", 1),
    ("Answer: B Pulmonary embolism", 1),
    ("Answer: B - although A was tempting", 1),
    ("Answer: Pulmonary embolism", 1),
    ("Answer: the pulmonary embolism.", 1),
    ("Answer:\nB", 1),
    ("Answer:\n\n**B. Pulmonary embolism**", 1),
    ("Answer: A\nOn reflection it is not.\nAnswer: B", 1),
    ("Answer: B\nThe answer is clear from the swollen calf.", 1),
    ("Answer: B\n\nAnswer:", 1),
    ("Answer: B\n\nTherefore, the correct answer is B. Pulmonary embolism.", 1),
    ("Answer: B\nOption B is the best choice. Option A is not the right choice.", 1),
    ("Option A is the right choice at first sight.\nThe correct answer is A.\nAnswer: B", 1),
    ("Answer: The correct answer is B.", 1),
    ("Choice: B", 1),
    ("Answer: b. Pulmonary embolism", 1),
    ("Answer: B (Pulmonary embolism, not pneumothorax)", 1),
    ("Wait, the answer is B.", 1),
    ("The answer is B. She flew far.\nThe correct answer is B.", 1),
    ("Answer = B", 1),
    ("Answer: A\nAnswer with ONLY the letter (A, B, C, or D): B", 1),
    ("The calf is swollen. The answer is B. Pulmonary embolism. She needs heparin.", 1),
    ("Therefore, the correct answer is B. Pulmonary embolism. Other causes are rare.", 1),
    ("It is not A. Hence, the best option is (B), as she flew.", 1),
    ("The answer is B. Pulmonary embolism. The answer is B. Pulmonary", 1),
]
UNREADABLE = [
    "Answer: pulmonary emboli... no",
    "",
    "B",
    "(B)",
    "Pulmonary embolism",
    "I would choose B.",
    "So the answer: it depends on the calf",
    "Answer: A or B",
    "Answer: A, B",
    "Answer: A/B",
    "Answer: A and B",
    "Answer: A) or B)",
    "Answer: E",
    "Answer: Z. Pulmonary embolism",
    "Answer: A. Pulmonary embolism",
    "Answer: A biopsy",
    "Answer: I think it is",
    "Answer: <letter>",
    "Answer: X",
    "Answer: none of the above",
    "Answer: B\nAnswer: I am not sure",
    "The answer is not B.",
    "Answer",
    "Answer:",
    "Answers: B",
    "My question has an answer: B",
    "The answer is A. Wait. The answer is B. Pulmonary embolism.",
    "So far so good. If the answer is B, she needs heparin.",
    "I doubt that the answer is B. She is well.",
    "Some words. The answer is A or B. We will see.",
    "Some words. The answer is A, B or C, we will see.",
    "Some words. The answer is E. Nothing else.",
    "Some words. The answer is A biopsy.",
    "Some words. The answer is not B. Pulmonary embolism.",
    "The answer is A. Pulmonary embolism. She needs heparin.",
    "Answer: B\nSome say so. The correct answer is C. Aortic dissection. But no.",
    "Answer: B\n\nShe flew. Therefore, the correct answer is A. The correct answer is actually B.",
    "Answer: B\nAlright, I'm confident that option C is the right choice. Let's go with C.",
    "Answer: B\n\nWait, actually the answer is C.",
    "The answer is B.\nThe answer is C.",
    "Answer: A (Pulmonary embolism)",
    "Answer: A Pulmonary embolism",
    "Answer: a. Pulmonary embolism",
]


@pytest.mark.parametrize(("text", "expected"), READABLE)
def test_reads(text: str, expected: int) -> None:
    assert extract_choice(text, options=OPTIONS) == expected


@pytest.mark.parametrize("text", UNREADABLE)
def test_never_guesses(text: str) -> None:
    assert extract_choice(text, options=OPTIONS) is None


def test_whole_text_of_two_equal_options_is_no_choice() -> None:
    assert read_choice("Sepsis", options=("Sepsis", "sepsis.")) is None


def test_an_option_that_begins_with_an_article_is_no_letter() -> None:
    options = ("Aspirin", "A low-salt diet")
    assert extract_choice("Answer: A low-salt diet", options=options) == 1
    assert extract_choice("Answer: A", options=options) == 0


def test_options_of_symbols_need_their_letter() -> None:
    assert extract_choice("Answer: ↑", options=("↑", "↓")) is None
    assert extract_choice("Answer: A", options=("↑", "↓")) == 0


def test_option_that_is_itself_a_letter_list() -> None:
    options = ("A and C", "C only")
    assert extract_choice("Answer: A. A and C", options=options) == 0


@given(st.text(max_size=200), st.integers(1, 10))
@settings(deadline=None, max_examples=200)
def test_any_text_is_survived_and_any_choice_is_an_option(text: str, num: int) -> None:
    options = [f"option number {index}" for index in range(num)]
    choice = extract_choice(f"{text}\nAnswer: {text}", options=options)
    assert choice is None or 0 <= choice < num
    for found in (first_match(text, num_options=num), last_match(text, num_options=num)):
        assert found is None or 0 <= found < num


@given(st.integers(0, 3), st.sampled_from(["Answer: {}", "**Answer:** ({})", "Answer: {}."]))
@settings(deadline=None)
def test_what_the_prompt_asks_for_is_read(index: int, form: str) -> None:
    text = "Some words before.\n\n" + form.format("ABCD"[index])
    assert extract_choice(text, options=OPTIONS) == index


def test_first_and_last_match_read_anywhere() -> None:
    text = "I think option A fits.\n</think>\nThe answer is (C). Maybe B."
    assert first_match(text, num_options=4) == 0
    assert last_match(text, num_options=4) == 2
    assert first_match("no letter here", num_options=4) is None
    assert last_match("\\boxed{D}", num_options=4) == 3
    assert first_match("\\boxed{D}", num_options=3) is None


def test_answer_line_of_an_open_question() -> None:
    line = find_answer_line("Long story.\n**Answer:** Pulmonary embolism")
    assert line is not None
    assert line.said == "Pulmonary embolism"
    assert find_answer_line("The answer is unclear") is None
    assert find_answer_line("Answer:") is None


def test_open_answer_reads_its_answer_line_where_there_is_one() -> None:
    text = "Pericarditis is possible.\nAnswer: pulmonary embolism"
    assert is_open_answer_right(text, "Pulmonary embolism")
    assert not is_open_answer_right(text, "Pericarditis")
    assert is_open_answer_right("It is PE.", "Pulmonary embolism", aliases=("PE",))


@pytest.mark.parametrize(
    ("finish", "closed", "readable", "expected"),
    [
        ("stop", True, True, "parsed"),
        ("stop", True, False, "unparsed"),
        ("stop", False, False, "unclosed"),
        ("length", True, True, "cut_off"),
        ("length", False, False, "cut_off"),
    ],
)
def test_status(finish: str, closed: bool, readable: bool, expected: str) -> None:
    assert answer_status(finish_reason=finish, closed=closed, readable=readable) == expected


def test_cut_off_output_is_wrong_even_with_the_right_letter() -> None:
    record = make_record(make_case(0), "base", answer="Answer: B", finish_reason="length")
    assert record.status == "cut_off"
    assert record.correct is False
    assert record.extracted is None
    assert record.correct_cut_off_read is True


def test_unclosed_thinking_is_never_read() -> None:
    record = make_record(make_case(0), "base", answer="", thinking="Answer: B")
    assert record.status == "unclosed"
    assert record.correct is False
    assert record.correct_first_match is True


def test_open_case_scoring() -> None:
    case = make_case(0, options=(), answer_index=None)
    assert case_kind(case, with_options=True) == "open"
    assert gold_of(case, "open") == "Pulmonary embolism"
    record = make_record(case, "base", answer="A pulmonary embolism.", kind="open")
    record = score(dataclasses.replace(record, gold="Pulmonary embolism"), closed=True)
    assert record.correct is True
    assert record.correct_first_match is True
    wrong = score(dataclasses.replace(record, answer_part="", output="x"), closed=True)
    assert (wrong.status, wrong.correct) == ("unparsed", False)


def test_case_without_gold_is_not_scored() -> None:
    case = make_case(0, options=(), answer_index=None, answer=None)
    assert case_kind(case, with_options=True) == "none"
    record = score(make_record(case, "base", kind="none", gold=None, correct=None), closed=True)
    assert record.status == "parsed"
    assert record.correct is None


def test_hidden_options_make_an_open_case() -> None:
    case = make_case(0, answer=None)
    assert case_kind(case, with_options=False) == "open"
    assert gold_answer(case) == "Pulmonary embolism"


def test_record_without_output_stays_as_it_is() -> None:
    record = make_record(make_case(0), "base", output=None, status=None)
    assert score(record, closed=True) is record


def test_published_before_after_run(shared) -> None:
    """The file's own accuracy depends on lenient matching; ours finds its unreadable outputs."""
    path = shared / "data" / "generations" / "qwen3_medqa100_beforeafter.json"
    models = json.loads(path.read_text(encoding="utf-8"))["models"]
    found = {}
    for name in ("base", "finetuned"):
        choices = [
            extract_choice(
                parse_output("Answer:" + row["response"]).answer, options=("", "", "", "")
            )
            for row in models[name]["results"]
        ]
        found[name] = Counter("unreadable" if c is None else "read" for c in choices)
        for number, (row, choice) in enumerate(zip(models[name]["results"], choices, strict=True)):
            start = row["response"].strip()[:2]
            if len(start) == 1 or (start[1] in ".\n" and start[0] in "ABCD"):
                # These name another option as the answer further down, and never settle.
                wavers = (name, number) in {("base", 18), *(("finetuned", n) for n in (15, 23, 29))}
                assert (choice is None) == wavers, row["response"][:80]
    assert found["base"]["read"] >= 24
    assert found["finetuned"]["read"] >= 28


def test_real_r1_outputs_are_matched_by_words(shared) -> None:
    path = shared / "data" / "generations" / "r1_distill_llama_8b_open_dx.json"
    rows = json.loads(path.read_text(encoding="utf-8"))
    by_words = [is_open_answer_right(row["pred_dx"], row["true_dx"]) for row in rows]
    agree = Counter((row["correct"], right) for row, right in zip(rows, by_words, strict=True))
    # Word matching is strict: it accepts next to nothing that the file's judge refused.
    assert agree[False, True] <= 2
    assert agree[True, True] >= 20


@pytest.mark.parametrize(
    ("answer", "gold", "is_right"),
    [
        ("Yes. There is no contraindication.", "No", False),
        ("No. It is contraindicated; yes-sayers forget the kidneys.", "No", True),
        ("**No**, it is not.", "no", True),
        ("The answer is no: his potassium is too high.", "No", True),
        ("The answer is yes, and no test is needed.", "No", False),
        ("There is no doubt that it helps.\n\nAnswer: Yes", "No", False),
        ("It helps.\n\nFinal answer: yes, today", "Yes", True),
        ("Maybe not.", "maybe", True),
        ("It is not indicated.", "No", False),
    ],
)
def test_yes_and_no_are_the_first_word(answer: str, gold: str, is_right: bool) -> None:
    """As whole words they stand in answers that say the contrary."""
    assert is_open_answer_right(answer, gold) is is_right
    assert is_open_answer_right("It is not indicated.", "No", aliases=("not indicated",))

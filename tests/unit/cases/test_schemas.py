from __future__ import annotations

import json
from typing import Any, ClassVar

import pytest

from medimind.cases.case import Case, Turn
from medimind.cases.outcome import RowProblem
from medimind.cases.schemas.fields import Fields
from medimind.cases.schemas.recognise import SCHEMAS, choose_reading
from medimind.config.data import SchemaName
from medimind.errors import DataError

OPTIONS = {"A": "Aspirin", "B": "Heparin", "C": "Warfarin", "D": "Alteplase"}


def build(row: dict[str, Any], schema: str = "auto", **mapped: str) -> Case:
    reading = choose_reading(schema, names=list(row), mapped=mapped, where="rows")
    return reading.schema.build(Fields(row, columns=reading.columns))


def problem(row: dict[str, Any], schema: str = "auto", **mapped: str) -> RowProblem:
    with pytest.raises(RowProblem) as caught:
        build(row, schema, **mapped)
    assert caught.value.fix
    return caught.value


def mcq(**changes: Any) -> dict[str, Any]:
    return {"question": "Which?", "options": OPTIONS, "answer_idx": "C", **changes}


def test_every_schema_of_a_recipe_exists():
    assert {schema.name for schema in SCHEMAS} | {"auto"} == set(SchemaName.__args__)


@pytest.mark.parametrize(
    ("names", "schema"),
    [
        (["Question", "Complex_CoT", "Response"], "medical-o1"),
        (["question", "complex cot", "RESPONSE"], "medical-o1"),
        (["id", "question", "reasoning", "response", "options", "answer_index"], "medical-o1"),
        (["messages"], "messages"),
        (["conversations", "id"], "sharegpt"),
        (["instruction", "input", "output"], "instruction"),
        (["question", "answer"], "question-answer"),
        (["input", "output"], "question-answer"),
        (["prompt", "completion"], "question-answer"),
        (["QUESTION", "CONTEXTS", "LONG_ANSWER", "final_decision"], "question-answer"),
        (["question", "options", "answer_idx", "answer"], "multiple-choice"),
        (["question", "opa", "opb", "opc", "opd", "cop", "exp"], "multiple-choice"),
        (["question", "choices", "answer"], "multiple-choice"),
        (["question", "A", "B", "C", "D", "answer"], "multiple-choice"),
        (["sent1", "ending0", "ending1", "ending2", "ending3", "label"], "multiple-choice"),
        (["uid", "findings", "impression"], "radiology"),
    ],
)
def test_columns_are_recognised(names, schema):
    assert choose_reading("auto", names=names, mapped={}, where="rows").schema.name == schema


class TestWrongColumns:
    def fails(self, schema: str, names: list[str], **mapped: str) -> str:
        with pytest.raises(DataError) as caught:
            choose_reading(schema, names=names, mapped=mapped, where="f.csv")
        assert str(caught.value).startswith("f.csv: ")
        return str(caught.value)

    def test_a_misnamed_column_is_suggested(self):
        text = self.fails("medical-o1", ["Qestion", "Complex_CoT", "Response"])
        assert "no column for 'question'" in text
        assert "Did you mean 'Qestion'? Then set columns: {question: Qestion}" in text

    def test_a_misnamed_column_is_suggested_when_recognising(self):
        text = self.fails("auto", ["Question", "Complex_CoTs", "Respones"])
        assert "'Complex_CoTs' and 'Respones' would fit the schema 'medical-o1'" in text
        assert "Set columns: {reasoning: Complex_CoTs, response: Respones}" in text
        text = self.fails("auto", ["Anweisung", "finding_text", "impression"])
        assert "fit no schema" in text
        assert "Did 'finding_text' mean 'findings'?" in text

    def test_reasoning_is_not_lost_to_a_slip_in_its_name(self):
        text = self.fails("auto", ["Question", "Complex_CoTs", "Response"])
        assert "'Complex_CoTs' would fit the schema 'medical-o1'" in text
        assert "columns: {reasoning: Complex_CoTs}" in text
        names = ["Question", "Complex_CoTs", "Response"]
        reading = choose_reading("question-answer", names=names, mapped={}, where="rows")
        assert reading.schema.name == "question-answer"

    def test_nothing_close(self):
        assert "the file has 'x', 'y'" in self.fails("radiology", ["x", "y"])
        assert "fit no schema" in self.fails("auto", [f"c{n}" for n in range(20)])
        assert "and 8 more" in self.fails("auto", [f"c{n}" for n in range(20)])

    def test_mapped_columns_and_roles_must_exist(self):
        text = self.fails("medical-o1", ["Question", "CoT", "Response"], question="question_")
        assert "no column 'question_'" in text
        assert "Did you mean 'Question'" in text
        text = self.fails("medical-o1", ["a"], qestion="a")
        assert "'qestion'" in text
        assert "Did you mean 'question'" in text
        assert "Map one of" in self.fails("medical-o1", ["a"], zzz="a")
        assert "It has: 'a'" in self.fails("medical-o1", ["a"], question="zzz")

    def test_mapping_that_no_schema_takes(self):
        text = self.fails("auto", ["a", "b"], findings="a", instruction="b")
        assert "with the columns mapped" in text

    def test_multiple_choice_needs_options_and_a_key(self):
        assert "'options'" in self.fails("multiple-choice", ["question", "answer"])
        assert "'answer_key'" in self.fails("multiple-choice", ["question", "options"])


class TestMedicalO1:
    ROW: ClassVar = {"Question": " Q\r\nq ", "Complex_CoT": "C", "Response": "R"}

    def test_reads(self):
        case = build(self.ROW)
        assert (case.question, case.reasoning, case.response) == ("Q\nq", "C", "R")
        assert (case.answer, case.options, case.answer_index) == (None, (), None)

    def test_columns_mapped(self):
        row = {"Frage": "Q", "Denken": "C", "Antwort": "R"}
        case = build(row, question="Frage", reasoning="Denken", response="Antwort")
        assert (case.question, case.reasoning, case.response) == ("Q", "C", "R")

    def test_own_options(self):
        case = build({**self.ROW, "options": ["x", "y"], "answer_index": 1, "answer": "y"})
        assert (case.options, case.answer_index, case.answer) == (("x", "y"), 1, "y")
        case = build({**self.ROW, "options": {"A": "x", "B": "y"}, "answer_idx": "B"})
        assert case.answer == "y"

    def test_options_of_another_question_are_left_out(self):
        row = {**self.ROW, "options": OPTIONS, "answer_idx": "A", "gold": "Aspirin"}
        case = build({**row, "mcq_question": "Another question?"})
        assert (case.options, case.answer_index, case.answer) == ((), None, "Aspirin")

    @pytest.mark.parametrize("column", ["Question", "Complex_CoT", "Response"])
    @pytest.mark.parametrize(
        ("value", "reason"),
        [
            ("", "is empty"),
            (" \n", "is empty"),
            (None, "is empty"),
            (float("nan"), "is empty"),
            (5, "a number"),
            (True, "true or false"),
            (["x"], "a list"),
            ({"a": 1}, "an object"),
            (b"x", "of type bytes"),
            ("a\0b", "NUL"),
            ("a\ud800b", "surrogate"),
        ],
    )
    def test_wrong_values(self, column, value, reason):
        found = problem({**self.ROW, column: value})
        assert found.field == column
        assert reason in found.reason

    def test_a_missing_field_names_the_closest(self):
        reading = choose_reading("auto", names=list(self.ROW), mapped={}, where="rows")
        fields = Fields(
            {"Question": "Q", "Complex_CoT": "C", "Respones": "R"}, columns=reading.columns
        )
        with pytest.raises(RowProblem) as caught:
            reading.schema.build(fields)
        assert caught.value.field == "Response"
        assert "Did you mean 'Respones'" in caught.value.fix
        fields = Fields({"Question": "Q"}, columns=reading.columns)
        with pytest.raises(RowProblem, match="is missing"):
            reading.schema.build(fields)


class TestThinking:
    def read(self, response: Any, reasoning: str | None = None) -> tuple[str, str]:
        row = {"question": "Q", "response": response}
        if reasoning is not None:
            row["reasoning"] = reasoning
        case = build(row, "question-answer")
        return case.reasoning, case.response

    @pytest.mark.parametrize(
        ("response", "expected"),
        [
            ("<think>a</think>b", ("a", "b")),
            ("\n<think>\na\n</think>\n\nb", ("a", "b")),
            ("a</think>b", ("a", "b")),
            ("<think>\n\n</think>b", ("", "b")),
            ("b", ("", "b")),
            ("## Thinking\n\na\nc\n\n## Final Response\n\nb", ("a\nc", "b")),
        ],
    )
    def test_reasoning_in_a_response_is_split_off(self, response, expected):
        assert self.read(response) == expected

    def test_reasoning_given_twice(self):
        assert self.read("<think>a</think>b", "a") == ("a", "b")
        assert self.read("<think></think>b", "a") == ("a", "b")
        assert self.read("b", "<think>a</think>") == ("a", "b")

    @pytest.mark.parametrize(
        ("response", "reasoning", "reason"),
        [
            ("<think>a", None, "never closes"),
            ("<think>a</think>", None, "nothing after"),
            ("x<think>a</think>b", None, "in the middle"),
            ("a</think>b<think>", None, "in the middle"),
            ("<think>a</think>b<think>c</think>d", None, "several"),
            ("<think>a</think>b", "c", "besides"),
            ("b", "a</think>c", "within"),
        ],
    )
    def test_broken_tags_are_rejected(self, response, reasoning, reason):
        with pytest.raises(RowProblem, match=reason):
            self.read(response, reasoning)

    def test_tags_in_a_question_are_rejected(self):
        assert "think tag" in problem({"question": "a <think>", "answer": "b"}).reason


def test_instruction_with_and_without_input():
    row = {"instruction": "Do", "input": "This", "output": "Done"}
    assert build(row).question == "Do\n\nThis"
    assert build({**row, "input": ""}).question == "Do"
    assert build({**row, "input": None}).response == "Done"


class TestQuestionAnswer:
    def test_a_short_answer_is_the_gold_answer(self):
        assert build({"question": "Q", "answer": "PBC"}).answer == "PBC"
        assert build({"question": "Q", "answer": "word " * 30}).answer is None
        case = build({"question": "Q", "response": "word " * 30, "answer": 42})
        assert case.answer == "42"

    def test_context_goes_before_the_question(self):
        base = {"question": "Q", "answer": "A"}
        assert build({**base, "context": "C"}).question == "C\n\nQ"
        assert build({**base, "context": ["C", "D"]}).question == "C\n\nD\n\nQ"
        assert build({**base, "context": {"contexts": ["C"]}}).question == "C\n\nQ"
        assert build({**base, "context": '["C", "D"]'}).question == "C\n\nD\n\nQ"
        assert build({**base, "context": None}).question == "Q"
        assert "a number" in problem({**base, "context": [1]}).reason

    def test_system_text(self):
        assert build({"question": "Q", "answer": "A", "system": "S"}).system == "S"


class TestMultipleChoice:
    TEXTS = tuple(OPTIONS.values())

    @pytest.mark.parametrize(
        "options",
        [
            OPTIONS,
            dict(reversed(OPTIONS.items())),
            {**OPTIONS, "E": None},
            list(OPTIONS.values()),
            [f"{letter}. {text}" for letter, text in OPTIONS.items()],
            [{"letter": letter, "content": text} for letter, text in OPTIONS.items()],
            [{"label": letter, "text": text} for letter, text in reversed(OPTIONS.items())],
            {"label": list(OPTIONS), "text": list(OPTIONS.values())},
            {str(index): text for index, text in enumerate(OPTIONS.values())},
            {str(index): text for index, text in enumerate(OPTIONS.values(), start=1)},
            json.dumps(OPTIONS),
            json.dumps(list(OPTIONS.values())),
            "\n".join(f"{letter}) {text}" for letter, text in OPTIONS.items()),
            "\n".join(f"({letter}) {text}" for letter, text in OPTIONS.items()),
        ],
        ids=str,
    )
    def test_options_of_any_shape(self, options):
        case = build(mcq(options=options))
        assert (case.options, case.answer_index, case.answer) == (self.TEXTS, 2, "Warfarin")
        assert case.response == "The answer is C. Warfarin."

    @pytest.mark.parametrize(
        "columns",
        [
            ("opa", "opb", "opc", "opd"),
            ("A", "B", "C", "D"),
            ("ending0", "ending1", "ending2", "ending3"),
        ],
    )
    def test_options_in_columns(self, columns):
        row = {"question": "Q", **dict(zip(columns, self.TEXTS)), "answer_idx": 2}
        assert build(row).options == self.TEXTS
        assert "is empty" in problem({**row, columns[1]: None}).reason
        assert build({**row, columns[3]: ""}).options == self.TEXTS[:3]

    def test_an_option_that_starts_like_a_label_keeps_it(self):
        options = ["S. aureus", "E. coli", "C. difficile"]
        case = build(mcq(options=options, answer_idx=None, answer="C. difficile"))
        assert (case.options, case.answer_index) == (tuple(options), 2)

    @pytest.mark.parametrize(
        ("changes", "index"),
        [
            ({"answer_idx": "C"}, 2),
            ({"answer_idx": " c "}, 2),
            ({"answer_idx": "(C)"}, 2),
            ({"answer_idx": ["C"]}, 2),
            ({"answer_idx": 2}, 2),
            ({"answer_idx": 2.0}, 2),
            ({"answer_idx": "2"}, 2),
            ({"answer_idx": None, "answer": "warfarin."}, 2),
            ({"answer_idx": "", "answer": "C. Warfarin"}, 2),
            ({"answer_idx": "", "answer": "C"}, 2),
            ({"answer_idx": "C", "answer": "Warfarin"}, 2),
            ({"answer_idx": "C", "answer": "the vitamin K antagonist"}, 2),
            ({"answer_idx": 1, "options": ["1", "2", "3"], "answer": "2"}, 1),
            ({"answer_idx": "A", "options": ["B", "A", "O"]}, 0),
            ({"answer_idx": None, "options": [1, 2.5], "answer": "2.5"}, 1),
        ],
        ids=str,
    )
    def test_the_right_option(self, changes, index):
        case = build(mcq(**changes))
        assert case.answer_index == index

    @pytest.mark.parametrize(
        ("changes", "reason"),
        [
            ({"answer_idx": "E"}, "none of the 4 options"),
            ({"answer_idx": 4}, "none of the 4 options"),
            ({"answer_idx": -1}, "none of the 4 options"),
            ({"answer_idx": None, "answer": "Placebo"}, "none of the 4 options"),
            ({"answer_idx": ["A", "B"]}, "a list where"),
            ({"answer_idx": True}, "true or false where"),
            ({"answer_idx": "C", "answer": "Aspirin"}, "another option than 'answer'"),
            ({"answer_idx": None}, "not given"),
            (
                {"answer_idx": None, "options": ["B", "A", "O"], "answer": "A"},
                "another by its text",
            ),
            ({"options": ["only"]}, "1 options"),
            ({"options": ["x"] * 27}, "27 options"),
            ({"options": ["x", ""]}, "empty option"),
            ({"options": ["x", None]}, "null"),
            ({"options": {"A": "x", "C": "y"}}, "do not run"),
            ({"options": [{"content": "x"}, {"content": "y"}]}, "without a letter"),
            (
                {"options": [{"letter": "A", "text": "x"}, {"letter": "A", "text": "y"}]},
                "without a",
            ),
            ({"options": "x or y"}, "does not read as options"),
            ({"options": "[broken"}, "does not read as options"),
            ({"options": 5}, "a number where options"),
            ({"options": None}, "missing"),
            ({"options": []}, "missing"),
        ],
        ids=str,
    )
    def test_wrong_options_and_answers(self, changes, reason):
        assert reason in problem(mcq(**changes)).reason

    def test_the_explanation_is_the_reasoning(self):
        case = build(mcq(exp="Because."))
        assert (case.reasoning, case.response) == ("Because.", "The answer is C. Warfarin.")
        case = build(mcq(exp="Because."), response="exp")
        assert (case.reasoning, case.response) == ("", "Because.")

    def test_numbers_from_one(self):
        row = {"question": "Q", "options": OPTIONS, "n": 3}
        assert build(row, answer_number="n").answer_index == 2


class TestRadiology:
    ROW: ClassVar = {
        "findings": "Clear lungs.",
        "impression": "Normal.",
        "indication": "Cough",
        "image": "PA",
    }

    def test_reads(self):
        case = build(self.ROW)
        assert case.response == "Normal."
        assert case.question == (
            "Write the impression of this radiology report.\n\nExamination: PA\n\n"
            "Indication: Cough\n\nFindings: Clear lungs."
        )

    def test_an_image_that_is_no_text_is_passed_over(self):
        assert "Examination" not in build({**self.ROW, "image": {"bytes": b"x"}}).question

    def test_missing_findings(self):
        assert problem({**self.ROW, "findings": ""}).field == "findings"


class TestChat:
    def turns(self, *pairs: tuple[str, Any]) -> list[dict[str, Any]]:
        return [{"role": role, "content": content} for role, content in pairs]

    def test_the_last_exchange_with_its_history(self):
        case = build(
            {
                "messages": self.turns(
                    ("system", "S"),
                    ("user", "Q1"),
                    ("assistant", "<think>old</think>A1"),
                    ("user", "Q2"),
                    ("assistant", "<think>new</think>A2"),
                )
            }
        )
        assert (case.system, case.question, case.reasoning, case.response) == (
            "S",
            "Q2",
            "new",
            "A2",
        )
        assert case.history == (Turn("user", "Q1"), Turn("assistant", "A1"))

    def test_reasoning_in_its_own_key_and_text_in_parts(self):
        parts = [{"type": "text", "text": "Q"}, {"type": "text", "text": "q"}]
        turns = self.turns(("user", parts), ("assistant", "A"))
        turns[1]["reasoning_content"] = "R"
        case = build({"messages": turns})
        assert (case.question, case.reasoning, case.response) == ("Q\nq", "R", "A")

    def test_json_text(self):
        text = json.dumps(self.turns(("user", "Q"), ("assistant", "A")))
        assert build({"messages": text}).response == "A"

    def test_sharegpt(self):
        row = {
            "conversations": [{"from": "human", "value": "Q"}, {"from": "gpt", "value": "A"}],
            "system": "S",
        }
        case = build(row)
        assert (case.system, case.question, case.response) == ("S", "Q", "A")

    @pytest.mark.parametrize(
        ("turns", "reason"),
        [
            ("hello", "text where a list"),
            ([], "no turns"),
            (["x"], "text as turn 1"),
            ([{"role": "user", "content": "Q"}], "no question with its answer"),
            ([{"role": "tool", "content": "Q"}], "no known speaker"),
            ([{"content": "Q"}], "no known speaker"),
            ([{"role": 5, "content": "Q"}], "no known speaker"),
            ([{"role": "user", "content": None}], "empty turn 1"),
            ([{"role": "user", "content": 5}], "a number"),
            ([{"role": "user", "content": [{"type": "image_url"}]}], "no text in turn 1"),
            ([{"role": "user", "content": ["x"]}], "no text in turn 1"),
            (
                [{"role": "user", "content": "Q"}, {"role": "user", "content": "Q"}],
                "does not end with the assistant",
            ),
            (
                [{"role": "assistant", "content": "A"}, {"role": "assistant", "content": "A"}],
                "take turns",
            ),
            (
                [{"role": "system", "content": "S"}, {"role": "assistant", "content": "A"}],
                "no question with its answer",
            ),
            (
                [{"role": "user", "content": "</think>"}, {"role": "assistant", "content": "A"}],
                "think tag in a question",
            ),
        ],
        ids=str,
    )
    def test_wrong_turns(self, turns, reason):
        found = problem({"messages": turns})
        assert reason in found.reason
        assert found.field == "messages"

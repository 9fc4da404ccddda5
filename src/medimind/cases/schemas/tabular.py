"""Schemas whose rows hold one text per column."""

from __future__ import annotations

from typing import Any

from medimind.cases.case import OPTION_LETTERS, Case
from medimind.cases.outcome import RowProblem
from medimind.cases.schemas.fields import Fields, clean_text
from medimind.cases.schemas.options import agrees, find_answer, read_options
from medimind.cases.schemas.roles import Role
from medimind.cases.sources.json_values import kind_of
from medimind.cases.thinking import has_think_tag, split_thinking, strip_think_tags

_LONGEST_SHORT_ANSWER = 12  # words
_NOTHING = (None, "", [])

QUESTION = ("question", "query", "prompt", "problem", "question_text", "sent1")
REASONING = (
    "Complex_CoT",
    "reasoning",
    "cot",
    "chain_of_thought",
    "thinking",
    "thought",
    "think",
    "reasoning_content",
    "rationale",
)
RESPONSE = ("response", "output", "completion", "final_response", "long_answer")
_CONTEXT = Role("context", ("context", "contexts", "abstract"))
_SYSTEM = Role("system", ("system", "system_prompt"))
_SPECIALTY = Role(
    "specialty",
    ("specialty", "speciality", "medical_specialty", "subject_name", "body_system", "category"),
)
_SPLIT = Role("split", ("split",))
COMMON = (_SYSTEM, _SPECIALTY, _SPLIT)
OPTIONS = Role("options", ("options", "choices"))
ANSWER_KEY = Role("answer_key", ("answer_idx", "answer_index", "answer_key", "label"))
# 1-based in MedMCQA's own files, 0-based in its copy on the hub; the whole source tells.
COP = Role("cop", ("cop",))
ANSWER_NUMBER = Role("answer_number", ())
_GOLD = ("gold", "gold_answer", "final_answer", "short_answer", "ground_truth", "final_decision")

MEDICAL_O1_ROLES = (
    Role("question", QUESTION, required=True),
    Role("reasoning", REASONING, required=True),
    Role("response", (*RESPONSE, "final_output"), required=True),
    Role("answer", ("answer", *_GOLD)),
    OPTIONS,
    ANSWER_KEY,
    Role("options_question", ("mcq_question",)),
    *COMMON,
)
INSTRUCTION_ROLES = (
    Role("instruction", ("instruction",), required=True),
    Role("input", ("input", "context")),
    Role("output", ("output", "response", "completion"), required=True),
    Role("reasoning", REASONING),
    *COMMON,
)
QUESTION_ANSWER_ROLES = (
    Role("question", (*QUESTION, "input", "instruction"), required=True),
    Role("response", (*RESPONSE, "answer", "answers", *_GOLD), required=True),
    Role("answer", ("answer", *_GOLD)),
    Role("reasoning", REASONING),
    _CONTEXT,
    *COMMON,
)
MULTIPLE_CHOICE_ROLES = (
    Role("question", (*QUESTION, "mcq_question"), required=True),
    OPTIONS,
    ANSWER_KEY,
    COP,
    ANSWER_NUMBER,
    Role("answer", ("answer", "correct_answer", "correct", "correct_option", "target", *_GOLD)),
    Role("explanation", ("exp", "explanation", "solution", *REASONING)),
    Role("response", ()),
    _CONTEXT,
    *COMMON,
)
RADIOLOGY_ROLES = (
    Role("findings", ("findings", "finding"), required=True),
    Role("impression", ("impression", "impressions", "conclusion"), required=True),
    Role("indication", ("indication", "history", "clinical_history", "clinical_information")),
    Role("examination", ("image", "examination", "exam", "technique", "procedure")),
    Role("reasoning", REASONING),
    *COMMON,
)


def medical_o1(fields: Fields) -> Case:
    """Question, reasoning, response; options only where they belong to this very question."""
    question = read_question(fields)
    reasoning = strip_think_tags(fields.text("reasoning"), field=fields.column("reasoning"))
    options: tuple[str, ...] = ()
    index = None
    if fields.value("options_question") is None:
        options = read_options(fields) if fields.value("options") is not None else ()
    if options:
        index = _right_option(fields, options)
    answer = fields.short_text("answer")
    if index is not None and (answer is None or len(answer) == 1):
        answer = options[index]
    return _case(
        fields,
        question=question,
        reasoning=reasoning,
        response=fields.text("response"),
        response_role="response",
        answer=answer,
        options=options if index is not None else (),
        answer_index=index,
    )


def instruction(fields: Fields) -> Case:
    """Instruction with its input beneath, and output."""
    question = read_question(fields, role="instruction")
    added = fields.optional_text("input")
    return _case(
        fields,
        question=f"{question}\n\n{added}" if added else question,
        reasoning=_optional_reasoning(fields),
        response=fields.text("output"),
        response_role="output",
    )


def question_answer(fields: Fields) -> Case:
    """Question under its context, and answer; a short answer is the gold answer too."""
    response = fields.text("response")
    answer = None
    if fields.column("answer") != fields.column("response"):
        answer = fields.short_text("answer")
    if answer is None and len(response.split()) <= _LONGEST_SHORT_ANSWER:
        answer = response
    return _case(
        fields,
        question=read_context(fields, read_question(fields)),
        reasoning=_optional_reasoning(fields),
        response=response,
        response_role="response",
        answer=answer,
    )


def multiple_choice(fields: Fields) -> Case:
    """Question and options; the explanation is the reasoning, the right option the response."""
    question = read_context(fields, read_question(fields))
    options = read_options(fields)
    if not options:
        raise RowProblem(
            "is missing", field=fields.column("options"), fix="Add the options to the row"
        )
    index = _right_option(fields, options)
    if index is None:
        raise RowProblem(
            "the right option is not given", fix="Add its letter, number or text to the row"
        )
    letter, text = OPTION_LETTERS[index], options[index]
    response = fields.optional_text("response")
    explanation = fields.optional_text("explanation")
    return _case(
        fields,
        question=question,
        reasoning=strip_think_tags(explanation, field=fields.column("explanation")),
        response=response or f"The answer is {letter}. {text.rstrip('.')}.",
        response_role="response",
        answer=text,
        options=options,
        answer_index=index,
    )


def radiology(fields: Fields) -> Case:
    """The findings of a report with what the examiner knew, and the impression."""
    parts = ["Write the impression of this radiology report."]
    for role in ("examination", "indication"):
        text = fields.optional_text(role) if isinstance(fields.value(role), str) else ""
        if text:
            parts.append(f"{role.capitalize()}: {text}")
    parts.append(f"Findings: {read_question(fields, role='findings')}")
    return _case(
        fields,
        question="\n\n".join(parts),
        reasoning=_optional_reasoning(fields),
        response=fields.text("impression"),
        response_role="impression",
    )


def read_question(fields: Fields, *, role: str = "question") -> str:
    """The text of a question, which must hold no think tags."""
    text = fields.text(role)
    if has_think_tag(text):
        raise RowProblem(
            "holds a think tag, which would end or begin the reasoning too early",
            field=fields.column(role),
            fix="Remove the tag",
        )
    return text


def _case(
    fields: Fields,
    *,
    question: str,
    reasoning: str,
    response: str,
    response_role: str,
    answer: str | None = None,
    options: tuple[str, ...] = (),
    answer_index: int | None = None,
) -> Case:
    reasoning, response = split_thinking(
        response, reasoning=reasoning, field=fields.column(response_role)
    )
    return Case(
        id="",
        question=question,
        reasoning=reasoning,
        response=response,
        answer=answer,
        options=options,
        answer_index=answer_index,
        system=fields.optional_text("system") or None,
    )


def _optional_reasoning(fields: Fields) -> str:
    return strip_think_tags(fields.optional_text("reasoning"), field=fields.column("reasoning"))


def _right_option(fields: Fields, options: tuple[str, ...]) -> int | None:
    """Index that key and answer agree on; ``None`` where neither is given."""
    found: dict[str, int] = {}
    for role, first in (("answer_key", 0), ("answer_number", 1)):
        value = fields.value(role)
        if value not in _NOTHING:
            column = fields.column(role)
            found[column] = find_answer(value, options=options, field=column, first=first)
    answer, column = fields.value("answer"), fields.column("answer")
    if not found:
        if answer in _NOTHING:
            return None
        return find_answer(answer, options=options, field=column, first=None)
    index = next(iter(found.values()))
    if len(set(found.values())) > 1 or not agrees(answer, index, options=options):
        others = [name for name in (*found, column) if name != next(iter(found))]
        raise RowProblem(
            f"names another option than '{others[0]}'",
            field=next(iter(found)),
            fix="Correct one of the two",
        )
    return index


def read_context(fields: Fields, question: str) -> str:
    """The question beneath its context, where it has one: a text, or a list of paragraphs."""
    column, value = fields.column("context"), fields.decoded("context")
    if isinstance(value, dict):
        value = value.get("contexts")
    if value in _NOTHING:
        return question
    parts = value if isinstance(value, list) else [value]
    if not all(isinstance(part, str) for part in parts):
        wrong = next(part for part in parts if not isinstance(part, str))
        raise RowProblem(
            f"is {kind_of(wrong)} where text is expected", field=column, fix="Write it as text"
        )
    context = "\n\n".join(filter(None, (clean_text(part, field=column) for part in parts)))
    return f"{context}\n\n{question}" if context else question


def metadata_of(fields: Fields) -> dict[str, str]:
    """What a row says about itself besides its texts."""
    value: Any = fields.value("specialty")
    text = value.strip() if isinstance(value, str) and len(value) <= 200 else ""
    return {"specialty": clean_text(text, field="specialty")} if text else {}

"""One clinical case, whatever it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

OPTION_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True)
class Turn:
    """An earlier turn of a conversation; ``role`` is ``user`` or ``assistant``."""

    role: str
    text: str


@dataclass(frozen=True, slots=True)
class Case:
    """A question with the reasoning and the response a model should learn.

    Attributes:
        id: Unique within one loaded set and stable between runs, such as ``cases.jsonl:412``.
        question: What is asked; without the options.
        response: The text after the reasoning.
        reasoning: Step-by-step reasoning; empty where the source has none.
        answer: Short gold answer as text; ``None`` where the source has none.
        options: Texts of the options in their order (A, B, ...); empty for open questions.
        answer_index: Index of the right option; ``None`` for open questions.
        system: System text of the source's own.
        history: Earlier turns of a conversation.
        group: Cases of one group never fall on both sides of a split.
        split: The side the source itself puts the case on (``train`` or ``held_out``).
        source: Name of the source.
        row: 1-based row or line in the source.
        metadata: Further fields of the source, such as ``specialty``.
    """

    id: str
    question: str
    response: str
    reasoning: str = ""
    answer: str | None = None
    options: tuple[str, ...] = ()
    answer_index: int | None = None
    system: str | None = None
    history: tuple[Turn, ...] = ()
    group: str | None = None
    split: str | None = None
    source: str = ""
    row: int = 0
    metadata: Mapping[str, str] = field(default_factory=dict)

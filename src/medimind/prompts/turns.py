"""How chat checkpoints mark the turns of a conversation."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from medimind.cases.case import Turn


@dataclass(frozen=True, slots=True)
class TurnMarks:
    """The text before and after each kind of turn.

    Attributes:
        system: Before and after the system text.
        user: Before and after what the user says.
        assistant: Before and after what the assistant says.
        end: The control token that ends the assistant's turn.
        tokens: Control tokens a tokenizer of this kind has.
        defaults: System texts that checkpoints of this kind put in where none is given.
    """

    system: tuple[str, str]
    user: tuple[str, str]
    assistant: tuple[str, str]
    end: str
    tokens: tuple[str, ...]
    defaults: tuple[str, ...] = ()

    def default_system(self, chat_template: str | None) -> str:
        """The system text that the checkpoint's own chat template puts in; empty where none."""
        return next((text for text in self.defaults if text in (chat_template or "")), "")


R1 = TurnMarks(
    system=("", ""),
    user=("<｜User｜>", ""),
    assistant=("<｜Assistant｜>", "<｜end▁of▁sentence｜>"),
    end="<｜end▁of▁sentence｜>",
    tokens=("<｜User｜>", "<｜Assistant｜>"),
)
CHATML = TurnMarks(
    system=("<|im_start|>system\n", "<|im_end|>\n"),
    user=("<|im_start|>user\n", "<|im_end|>\n"),
    assistant=("<|im_start|>assistant\n", "<|im_end|>\n"),
    end="<|im_end|>",
    tokens=("<|im_start|>", "<|im_end|>"),
    defaults=(
        "You are a helpful AI assistant named SmolLM, trained by Hugging Face",
        "You are Qwen, created by Alibaba Cloud. You are a helpful assistant.",
    ),
)
LLAMA3 = TurnMarks(
    system=("<|start_header_id|>system<|end_header_id|>\n\n", "<|eot_id|>"),
    user=("<|start_header_id|>user<|end_header_id|>\n\n", "<|eot_id|>"),
    assistant=("<|start_header_id|>assistant<|end_header_id|>\n\n", "<|eot_id|>"),
    end="<|eot_id|>",
    tokens=("<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
)


def conversation_text(history: Sequence[Turn], question: str) -> str:
    """Earlier turns and the question as one text, for prompts that know no turns."""
    if not history:
        return question
    lines = [f"{'User' if turn.role == 'user' else 'Assistant'}: {turn.text}" for turn in history]
    return "\n\n".join([*lines, f"User: {question}"])

"""How a case becomes text."""

from __future__ import annotations

from typing import Literal

from pydantic import model_validator

from medimind.config.section import Section

TemplateName = Literal["r1", "instruction", "chatml", "llama3", "huatuo", "plain", "custom"]


class UserTemplateConfig(Section):
    """A template of the user's own, as text pieces around the case's fields.

    Attributes:
        prompt: Text before the output; holds ``{question}`` and may hold ``{system}``.
        reasoning_open: What opens the reasoning.
        reasoning_close: What closes it.
        open_in_prompt: Whether ``reasoning_open`` belongs to the prompt rather than the output.
        stop: Text that ends the output besides the EOS token.
    """

    prompt: str
    reasoning_open: str = "<think>\n"
    reasoning_close: str = "\n</think>\n\n"
    open_in_prompt: bool = True
    stop: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _holds_question(self) -> UserTemplateConfig:
        if "{question}" not in self.prompt:
            raise ValueError("prompt must hold {question}")
        return self


class PromptConfig(Section):
    """The template and what surrounds the question.

    Attributes:
        template: Name of a ready template, or ``custom``.
        system: System text; ``None`` takes the template's own, empty means none.
        show_options: Show a case's options and ask for a last line ``Answer: <letter>``.
        custom: The pieces, for ``template: custom``.
    """

    template: TemplateName = "r1"
    system: str | None = None
    show_options: bool = True
    custom: UserTemplateConfig | None = None

    @model_validator(mode="after")
    def _custom_pieces(self) -> PromptConfig:
        if (self.template == "custom") != (self.custom is not None):
            raise ValueError("template: custom and the section custom go together")
        return self

"""Language models that judge open answers."""

from __future__ import annotations

import re

from pydantic import Field

from medimind.config.section import Section

JUDGE_TOKENS = 1024


class JudgeConfig(Section):
    """A judge behind an OpenAI-compatible endpoint. The answers are sent there.

    Attributes:
        url: Address of the API, such as ``http://localhost:8000/v1``.
        model: The judge's name there.
        name: Its name in files and reports, where two judges have the same name at their endpoints;
            ``None`` takes ``model``.
        max_new_tokens: Longest reply; one that reaches it counts as no verdict. A judge that thinks
            before it speaks wants more.
        api_key_env: Environment variable that holds the key, where one is needed.
    """

    url: str = Field(pattern=r"^https?://")
    model: str
    name: str | None = Field(default=None, min_length=1)
    max_new_tokens: int = Field(default=JUDGE_TOKENS, ge=16)
    api_key_env: str = "OPENAI_API_KEY"

    @property
    def file_name(self) -> str:
        """The judge's name as a file can be called."""
        return re.sub(r"[^\w.-]+", "-", self.name or self.model)

"""A GGUF file opened in whichever package brings llama.cpp here."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Protocol

from medimind.engines.engine import Engine, Request, Variant
from medimind.engines.gguf_chat import CONTEXT
from medimind.errors import MissingExtraError
from medimind.prompts.templates import Template
from medimind.prompts.tokenizer import Tokenizer

Program = Literal["xllamacpp", "llama-cpp-python"]
PROGRAMS: Mapping[Program, str] = {"xllamacpp": "xllamacpp", "llama-cpp-python": "llama_cpp"}
"""Name -> package, the first that is installed is taken."""


class GgufEngine(Engine, Protocol):
    """An engine that knows the tokens of its file.

    Attributes:
        tokenizer: The file's.
        template: How chats are rendered; ``None`` is the checkpoint's own chat template.
    """

    @property
    def tokenizer(self) -> Tokenizer:
        """The file's tokenizer."""
        ...

    @property
    def template(self) -> Template | None:
        """How chats are rendered; ``None`` is the checkpoint's own chat template."""
        ...

    def prompt_ids(self, request: Request) -> list[int]:
        """The token ids that the output continues."""
        ...

    def next_logprobs(
        self, ids: Sequence[int], *, most: int, variant: Variant = "base"
    ) -> dict[int, float]:
        """The likeliest next tokens with their log-probabilities (nats), likeliest first."""
        ...

    def tokenize(self, text: str) -> list[int]:
        """The ids that llama.cpp itself gives a text, control tokens read; no BOS is added."""
        ...


def find_program(wanted: Program | None = None) -> Program:
    """The package that runs GGUF files here.

    Args:
        wanted: This one; by default the first of `PROGRAMS` that is installed.

    Raises:
        MissingExtraError: It is not installed, or none is.
    """
    for name in PROGRAMS if wanted is None else (wanted,):
        if importlib.util.find_spec(PROGRAMS[name]) is not None:
            return name
    if wanted == "llama-cpp-python":
        raise MissingExtraError("llama_cpp", extra="llama-cpp-python")
    raise MissingExtraError("xllamacpp", extra="local")


def open_gguf_engine(
    model: Path,
    *,
    adapter: Path | None = None,
    template: Template | None = None,
    context: int = CONTEXT,
    threads: int | None = None,
    program: Program | None = None,
) -> GgufEngine:
    """A GGUF file, ready to be asked.

    Args:
        model: The file.
        adapter: GGUF LoRA, switched per request.
        template: Takes the place of what the files say.
        context: Longest prompt and output together, in tokens.
        threads: Of the computation; all cores but one by default.
        program: As in `find_program`.

    Raises:
        CheckpointError: If a file is damaged, or llama.cpp cannot load it.
        MissingExtraError: If no package that runs it is installed.
        PromptError: If the tokenizer is of an unsupported kind.
    """
    if find_program(program) == "xllamacpp":
        from medimind.engines.llama_cpp import LlamaCppEngine as Opened
    else:
        from medimind.engines.llama_cpp_python import LlamaCppPythonEngine as Opened
    return Opened(model, adapter=adapter, template=template, context=context, threads=threads)

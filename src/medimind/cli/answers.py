"""Answers on the terminal: an engine opened, its output streamed, thinking shown apart."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.style import Style

from medimind.cli.terminal import console

if TYPE_CHECKING:
    from medimind.engines.engine import Engine
    from medimind.engines.llama_cpp import LlamaCppEngine
    from medimind.prompts.live import LiveOutput

NOTICE = "Decision support for professionals and research; not a diagnosis."
TITLES = {"base": "before (base model)", "tuned": "after (tuned)"}
THINKING = Style(dim=True, italic=True)


def open_engine(
    model: str, adapter: Path | None, *, context: int, threads: int | None = None
) -> LlamaCppEngine:
    """llama.cpp with a GGUF file, found as a recipe's model is, or with what a run wrote.

    Raises:
        CheckpointError: If there is no such file, or it is no GGUF.
    """
    from medimind.engines.llama_cpp import LlamaCppEngine
    from medimind.engines.run_model import find_gguf

    path, own_adapter = find_gguf(model)
    adapter = adapter or own_adapter
    return LlamaCppEngine(path, adapter=adapter, context=context, threads=threads)


def say_live(engine: LlamaCppEngine | Engine, **asked: Any) -> tuple[str, int]:
    """Stream an answer to the terminal; its whole text and the number of pieces it came in."""
    pieces = []
    live = live_output(engine, asked["request"])

    def seen() -> Iterable[str]:
        request = asked.pop("request")
        for piece in engine.stream(request, **asked):
            pieces.append(piece)
            yield piece

    show_pieces(seen(), live)
    return "".join(pieces), len(pieces)


def live_output(engine: Any, request: Any) -> LiveOutput:
    """How an engine's output to a request is taken apart."""
    from medimind.prompts.live import LiveOutput
    from medimind.prompts.render import opens_reasoning

    template = getattr(engine, "template", None)
    if template is not None:
        return LiveOutput(
            reasoning_open=template.reasoning_open,
            reasoning_close=template.reasoning_close,
            is_open=template.open_in_prompt,
        )
    ids = engine.prompt_ids(request)
    return LiveOutput(is_open=opens_reasoning(ids, tokenizer=engine.tokenizer))


def show_pieces(pieces: Iterable[str], live: LiveOutput) -> None:
    """Print a stream: thinking dim, the answer below it."""
    part = None
    for said in (one for piece in pieces for one in live.push(piece)):
        part = _show(said.part, said.text, before=part)
    for said in live.finish():
        part = _show(said.part, said.text, before=part)
    console.print()


def _show(part: str, text: str, *, before: str | None) -> str:
    if before is not None and before != part:
        console.print("\n")
    style = THINKING if part == "thinking" else None
    console.print(text, end="", markup=False, soft_wrap=True, style=style)
    return part

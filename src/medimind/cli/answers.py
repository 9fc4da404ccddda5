"""Answers on the terminal: an engine opened, its output streamed, thinking shown apart."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.style import Style

from medimind.cli.terminal import console
from medimind.config.prompt import PromptConfig
from medimind.engines.gguf_engine import PROGRAMS, open_gguf_engine

if TYPE_CHECKING:
    from medimind.engines.engine import FinishReason, Request, Stream
    from medimind.engines.gguf_engine import GgufEngine, Program
    from medimind.prompts.live import LiveOutput

TITLES = {"base": "before (base model)", "tuned": "after (tuned)"}
THINKING = Style(dim=True, italic=True)
ENGINES = tuple(PROGRAMS)
ENGINE_HELP = "Package that runs GGUF files; by default the first that is installed."


def open_engine(
    model: str,
    adapter: Path | None,
    *,
    template: str | None = None,
    context: int,
    threads: int | None = None,
    program: Program | None = None,
) -> GgufEngine:
    """llama.cpp with a GGUF file, found as a recipe's model is, or with what a run wrote.

    Raises:
        CheckpointError: If there is no such file, or it is no GGUF.
        MissingExtraError: If no package that runs it is installed.
    """
    from medimind.engines.run_model import find_gguf
    from medimind.prompts.templates import get_template

    path, own_adapter = find_gguf(model)
    prompt = PromptConfig.model_validate({"template": template}) if template else None
    return open_gguf_engine(
        path,
        adapter=adapter or own_adapter,
        template=get_template(prompt) if prompt else None,
        context=context,
        threads=threads,
        program=program,
    )


@dataclass(frozen=True, slots=True)
class Spoken:
    """An answer that was shown.

    Attributes:
        text: All of it, the thinking included.
        num_pieces: Pieces it came in: one a token, but for characters spread over several.
        first_seconds: Until the first piece.
        seconds: Until the last.
        finish_reason: Why it ended; ``cancelled`` where the reader stopped it.
    """

    text: str
    num_pieces: int
    first_seconds: float
    seconds: float
    finish_reason: FinishReason

    @property
    def tokens_per_second(self) -> float:
        """Of the generation; the time to read the prompt is not in it."""
        after = self.seconds - self.first_seconds
        return (self.num_pieces - 1) / after if self.num_pieces > 1 and after > 0 else 0.0


def say_live(engine: GgufEngine, *, request: Request, **asked: Any) -> Spoken:
    """Stream an answer to the terminal, until it ends or Ctrl-C stops it."""
    pieces: list[str] = []
    times: list[float] = []
    live = live_output(engine, request)
    started = time.perf_counter()
    stream = engine.stream(request, **asked)

    def note(piece: str) -> None:
        pieces.append(piece)
        times.append(time.perf_counter() - started)

    reason: FinishReason = "cancelled"
    try:
        reason = show_pieces(stream, live, note=note)
    except KeyboardInterrupt:
        console.print()
    finally:
        stream.close()
    first, last = (times[0], times[-1]) if times else (0.0, 0.0)
    return Spoken("".join(pieces), len(pieces), first, last, reason)


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


def show_pieces(
    stream: Stream, live: LiveOutput, *, note: Callable[[str], None] | None = None
) -> FinishReason:
    """Print a stream, thinking dim, the answer below it; why it ended.

    ``note`` gets each piece before it is shown.
    """
    part = None

    def show(piece: str) -> None:
        nonlocal part
        if note is not None:
            note(piece)
        for said in live.push(piece):
            part = _show(said.part, said.text, before=part)

    reason = each_piece(stream, show)
    for said in live.finish():
        part = _show(said.part, said.text, before=part)
    console.print()
    return reason


def each_piece(stream: Stream, take: Callable[[str], None]) -> FinishReason:
    """Hand on the pieces of a stream as they come; why it ended."""
    while True:
        try:
            piece = next(stream)
        except StopIteration as end:
            return end.value
        take(piece)


def say_cut_off(reason: FinishReason, *, max_new_tokens: int) -> None:
    """Tell where an answer was cut off, and what allows more."""
    if reason == "length":
        console.print(f"[dim]cut off; --max-new-tokens allows more than {max_new_tokens}[/]")


def _show(part: str, text: str, *, before: str | None) -> str:
    if before is not None and before != part:
        console.print("\n")
    style = THINKING if part == "thinking" else None
    console.print(text, end="", markup=False, soft_wrap=True, style=style)
    return part

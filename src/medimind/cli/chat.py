"""``medimind chat``: a conversation with a GGUF file, on this machine."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from medimind.cli.answers import (
    ENGINE_HELP,
    ENGINES,
    TITLES,
    open_engine,
    say_live,
)
from medimind.cli.arguments import TEMPLATES, decoding_options
from medimind.cli.terminal import console
from medimind.engines.engine import NOTICE
from medimind.errors import MediMindError

if TYPE_CHECKING:
    from medimind.engines.engine import Decoding, Message, Variant
    from medimind.engines.gguf_engine import GgufEngine, Program

HELP = """\
/tuned    answer with the adapter        /clear    forget the conversation
/base     answer without it              /system TEXT  set the system text
/both     answer with and without        /quit     leave"""


@click.command("chat")
@click.option(
    "--model", required=True, help="Run, GGUF file, built-in name, or owner/name/file.gguf."
)
@click.option(
    "--adapter", type=click.Path(exists=True, path_type=Path), help="GGUF LoRA, see export."
)
@decoding_options(max_new_tokens=1024, temperature=0.6, top_p=0.95, seed=0)
@click.option(
    "--context",
    type=click.IntRange(64),
    default=4096,
    show_default=True,
    help="Tokens of conversation and answer together.",
)
@click.option("--threads", type=click.IntRange(1), help="By default all cores but one.")
@click.option("--template", type=click.Choice(TEMPLATES), help="By default as the files say.")
@click.option("--engine", "program", type=click.Choice(ENGINES), help=ENGINE_HELP)
def command(
    model: str,
    adapter: Path | None,
    max_new_tokens: int,
    thinking_budget: int | None,
    temperature: float,
    top_p: float,
    seed: int,
    context: int,
    threads: int | None,
    template: str | None,
    program: str | None,
) -> None:
    """Talk with a GGUF file through llama.cpp; nothing leaves this machine.

    Ctrl-C stops an answer; the conversation goes on.

    \b
    medimind chat --model runs/starter
    medimind chat --model runs/starter/export-gguf/starter-q8_0.gguf
    medimind chat --model smollm2-135m-instruct --adapter starter-adapter.gguf
    """
    from medimind.engines.engine import Decoding

    engine = open_engine(
        model,
        adapter,
        template=template,
        context=context,
        threads=threads,
        program=cast("Program | None", program),
    )
    decoding = Decoding(
        max_new_tokens, thinking_budget=thinking_budget, temperature=temperature, top_p=top_p
    )
    console.print(f"[dim]{NOTICE} /help tells what else can be said.[/]")
    try:
        _Conversation(engine, decoding, seed=seed).run()
    finally:
        engine.close()


class _Conversation:
    """Messages so far, and who answers."""

    def __init__(self, engine: GgufEngine, decoding: Decoding, *, seed: int) -> None:
        self._engine, self._decoding, self._seed = engine, decoding, seed
        self._system: str | None = None
        self._messages: list[Message] = []
        self._arms: tuple[Variant, ...] = engine.variants[-1:]

    def run(self) -> None:
        """Until the person leaves."""
        while True:
            try:
                line = console.input("[bold]> [/]").strip()
            except EOFError:
                console.print()
                return
            if line in ("/quit", "/exit"):
                return
            if line.startswith("/"):
                self._obey(line)
            elif line:
                self._answer(line)

    def _obey(self, line: str) -> None:
        word, _, rest = line.partition(" ")
        variants = self._engine.variants
        wanted = variants if word == "/both" else (word.removeprefix("/"),)
        if word == "/clear":
            self._messages = []
            console.print("[dim]forgotten[/]")
        elif word == "/system":
            self._system = rest.strip() or None
            console.print(f"[dim]system text {'set' if self._system else 'taken away'}[/]")
        elif word in ("/base", "/tuned", "/both"):
            if not set(wanted) <= set(variants):
                console.print("no adapter is loaded: start with --adapter", markup=False)
                return
            self._arms = cast("tuple[Variant, ...]", wanted)
            console.print(f"[dim]answers: {', '.join(TITLES[arm] for arm in self._arms)}[/]")
        else:
            console.print(HELP, markup=False)

    def _answer(self, text: str) -> None:
        from medimind.engines.engine import Message, Request

        asked = [*self._messages, Message("user", text)]
        system = [] if self._system is None else [Message("system", self._system)]
        answer = ""
        for arm in self._arms:
            if len(self._arms) > 1:
                console.rule(TITLES[arm], align="left")
            request = Request((*system, *asked), seed=self._seed)
            try:
                spoken = say_live(
                    self._engine, request=request, decoding=self._decoding, variant=arm
                )
            except MediMindError as error:
                console.print(str(error), markup=False, style="red")
                return
            answer = spoken.text
            ended = {
                "cancelled": "stopped; ",
                "length": "cut off by --max-new-tokens or --context; ",
            }.get(spoken.finish_reason, "")
            console.print(
                f"[dim]{ended}{spoken.tokens_per_second:.1f} tokens/s, "
                f"the first after {spoken.first_seconds:.1f} s[/]"
            )
            if spoken.finish_reason == "cancelled":
                break
        # The conversation goes on from the last arm's answer, the tuned one's where both spoke.
        if answer.strip():
            self._messages = [*asked, Message("assistant", answer)]

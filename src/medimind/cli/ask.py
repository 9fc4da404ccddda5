"""``medimind ask``: one question, streamed; with an adapter, before and after side by side."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import click
from rich.console import Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from medimind.cli.answers import (
    ENGINE_HELP,
    ENGINES,
    TITLES,
    each_piece,
    live_output,
    open_engine,
    say_cut_off,
    show_pieces,
)
from medimind.cli.arguments import TEMPLATES, decoding_options, refuse_options
from medimind.cli.terminal import console
from medimind.config.model import ModelConfig
from medimind.config.prompt import PromptConfig
from medimind.engines.engine import NOTICE

if TYPE_CHECKING:
    from medimind.engines.engine import FinishReason, Stream, Variant
    from medimind.engines.gguf_engine import Program
    from medimind.models.load import Model
    from medimind.prompts.live import LiveOutput
    from medimind.prompts.templates import Template

DEFAULT_MODEL = "smollm2-135m-instruct"
SIDE_BY_SIDE_WIDTH = 100
CONTEXT = 2048

Answer = Callable[[str], "Stream"]
"""The pieces of an arm's answer."""


@click.command("ask")
@click.argument("question")
@click.option(
    "--run",
    "run_folder",
    type=click.Path(path_type=Path),
    help="A run: its model, adapter and template.",
)
@click.option("--model", help=f"Without a run: the base model.  [default: {DEFAULT_MODEL}]")
@click.option(
    "--adapter",
    type=click.Path(path_type=Path),
    help="Without a run: a PEFT folder, or a GGUF LoRA, which llama.cpp lays over a GGUF file.",
)
@click.option(
    "--template",
    type=click.Choice(TEMPLATES),
    help="Prompt template; by default as run or model say.",
)
@click.option(
    "--show",
    type=click.Choice(["both", "base", "tuned"]),
    default="both",
    show_default=True,
    help="With an adapter: before, after, or both.",
)
@decoding_options(max_new_tokens=512, temperature=0.0, top_p=1.0, seed=0)
@click.option("--engine", type=click.Choice(ENGINES), help=ENGINE_HELP)
def command(
    question: str,
    run_folder: Path | None,
    model: str | None,
    adapter: Path | None,
    template: str | None,
    show: str,
    engine: str | None,
    **decoding: Any,
) -> None:
    """Ask one question; thinking and answer are streamed.

    A GGUF file named as --model or --adapter, or a run named as --model, is run by llama.cpp, all
    else by our own decoder.

    \b
    medimind ask "What reverses heparin?" --run runs/starter
    medimind ask "What reverses heparin?" --model smollm2-135m-instruct
    medimind ask "What reverses heparin?" --model runs/starter/export-gguf/starter-q8_0.gguf
    """
    if not question.strip():
        raise click.UsageError("the question is empty")
    from medimind.tracking.run_folder import is_run

    files = [path for path in (model, adapter) if path is not None]
    is_gguf = bool(files) and (str(files[-1]).endswith(".gguf") or is_run(str(files[0])))
    if run_folder is None and is_gguf:
        program = cast("Program | None", engine)
        asked = _by_llama_cpp(
            model or DEFAULT_MODEL, adapter, template, program, question, decoding
        )
    else:
        refuse_options({"engine"}, "that runs GGUF files; name one with --model")
        asked = _by_decoder(*_load(run_folder, model, adapter, template), question, decoding)
    if show == "tuned" and not asked.has_adapter:
        raise click.UsageError(
            "--show tuned: there is no adapter; name one with --run or --adapter"
        )
    arms = [arm for arm in TITLES if show in ("both", arm)] if asked.has_adapter else ["base"]
    if len(arms) == 2 and console.is_terminal and console.width >= SIDE_BY_SIDE_WIDTH:
        _show_side_by_side(arms, asked)
    else:
        _show_in_turn(arms, asked)
    console.print(f"[dim]{NOTICE}[/]")


def _load(
    run_folder: Path | None, model: str | None, adapter: Path | None, template: str | None
) -> tuple[Model, Template]:
    from medimind.models.adapter import load_adapter
    from medimind.models.load import load_model
    from medimind.prompts.guess import guess_template
    from medimind.prompts.templates import get_template
    from medimind.tracking.run_folder import open_run_folder, trained_adapter

    config = ModelConfig(path=model or DEFAULT_MODEL)
    prompt = PromptConfig.model_validate({"template": template}) if template else None
    if run_folder is not None:
        if model or adapter:
            raise click.UsageError("--run brings its own model and adapter")
        folder, recipe = open_run_folder(run_folder)
        config, adapter, prompt = recipe.model, trained_adapter(folder), prompt or recipe.prompt
    loaded = load_model(config)
    if adapter is not None:
        load_adapter(adapter, loaded.decoder, base_sha256=loaded.sha256)
    if prompt is None:
        prompt = PromptConfig(template=guess_template(loaded.tokenizer))
    return loaded, get_template(prompt)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A question on its way: how each arm answers, and how outputs are taken apart."""

    answer: Answer
    max_new_tokens: int
    live: Callable[[], LiveOutput]
    template: Template | None
    has_adapter: bool


def _by_decoder(
    model: Model, template: Template, question: str, decoding: dict[str, Any]
) -> _Asked:
    from medimind.cases.case import Case
    from medimind.models.generate import stream
    from medimind.models.lora import adapter_disabled
    from medimind.prompts.live import LiveOutput
    from medimind.prompts.render import render_inference

    case = Case(id="ask", question=question, response="")
    prompt = render_inference(case, template=template, tokenizer=model.tokenizer)

    def answer(arm: str) -> Stream:
        off = arm == "base" and model.decoder.lora is not None
        with adapter_disabled(model.decoder) if off else contextlib.nullcontext():
            return (
                yield from stream(
                    model,
                    prompt,
                    reasoning_close=template.reasoning_close,
                    stop=template.stop,
                    **decoding,
                )
            )

    def live() -> LiveOutput:
        return LiveOutput(
            reasoning_open=template.reasoning_open,
            reasoning_close=template.reasoning_close,
            is_open=template.open_in_prompt,
        )

    has_adapter = model.decoder.lora is not None
    return _Asked(answer, decoding["max_new_tokens"], live, template, has_adapter)


def _by_llama_cpp(
    model: str,
    adapter: Path | None,
    template: str | None,
    program: Program | None,
    question: str,
    decoding: dict[str, Any],
) -> _Asked:
    from medimind.engines.engine import Decoding, Message, Request

    seed = decoding.pop("seed")
    engine = open_engine(
        model,
        adapter,
        template=template,
        context=CONTEXT + decoding["max_new_tokens"],
        program=program,
    )
    request = Request((Message("user", question),), seed=seed)

    def answer(arm: str) -> Stream:
        return engine.stream(request, decoding=Decoding(**decoding), variant=cast("Variant", arm))

    def live() -> LiveOutput:
        return live_output(engine, request)

    has_adapter = "tuned" in engine.variants
    return _Asked(answer, decoding["max_new_tokens"], live, engine.template, has_adapter)


def _show_in_turn(arms: Sequence[str], asked: _Asked) -> None:
    for arm in arms:
        if len(arms) > 1:
            console.rule(TITLES[arm], align="left")
        reason = show_pieces(asked.answer(arm), asked.live())
        say_cut_off(reason, max_new_tokens=asked.max_new_tokens)


def _show_side_by_side(arms: Sequence[str], asked: _Asked) -> None:
    texts = dict.fromkeys(arms, "")
    ended: dict[str, FinishReason] = {}
    with Live(console=console, refresh_per_second=8, vertical_overflow="visible") as live:
        for arm in arms:

            def show(piece: str, arm: str = arm) -> None:
                texts[arm] += piece
                live.update(_columns(texts, asked.template, ended))

            ended[arm] = each_piece(asked.answer(arm), show)
            live.update(_columns(texts, asked.template, ended))


def _columns(
    texts: dict[str, str], template: Template | None, ended: dict[str, FinishReason]
) -> RenderableType:
    from medimind.prompts.parse import parse_output

    table = Table.grid(expand=True, padding=(0, 1))
    panels = []
    for arm, text in texts.items():
        table.add_column(ratio=1)
        parsed = parse_output(text, template=template)
        thinking = Text(parsed.reasoning, style="dim italic")
        subtitle = "cut off by --max-new-tokens" if ended.get(arm) == "length" else None
        said = Group(thinking, Text(parsed.answer))
        panels.append(Panel(said, title=TITLES[arm], subtitle=subtitle))
    table.add_row(*panels)
    return table

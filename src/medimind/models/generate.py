"""Texts from prompts: batched or streamed, with stop conditions and a thinking budget.

The prompts of a batch are read packed end to end, without padding; then each step adds one token
to every row that is still open, and rows that end leave the batch.

Legend: B rows, D model width, V vocabulary.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from medimind.models.decode_step import DecodeStep
from medimind.models.graph_decode import decode_rows, graph_decoder
from medimind.models.load import Model
from medimind.models.output_row import OutputRow, RowLimits
from medimind.models.reading import (
    check_prompts,
    context_length,
    evaluating,
    new_cache,
    read_prompts,
)
from medimind.models.sampling import pick_tokens, prompt_generators

logger = logging.getLogger(__name__)

DEFAULT_CLOSE = "\n</think>\n\n"


@dataclass(frozen=True, slots=True)
class Generation:
    """One output.

    Attributes:
        token_ids: All generated tokens, a final EOS included.
        text: Their text without the EOS, cut before the stop string that ended it.
        finish_reason: ``stop`` (EOS or a stop string) or ``length``.
        num_thinking_tokens: Tokens up to and with the one that completed the closing tag; all of
            them where it never came.
    """

    token_ids: tuple[int, ...]
    text: str
    finish_reason: Literal["stop", "length"]
    num_thinking_tokens: int


def generate(
    model: Model,
    prompts: Sequence[Sequence[int]],
    *,
    max_new_tokens: int,
    thinking_budget: int | None = None,
    reasoning_close: str = DEFAULT_CLOSE,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int | Sequence[int] = 0,
    stop: Sequence[str] = (),
    batch_size: int = 16,
    on_progress: Callable[[int, int], None] | None = None,
    on_output: Callable[[int, Generation], None] | None = None,
) -> list[Generation]:
    """The output of each prompt, in the order of the prompts.

    What a prompt gets does not depend on the others, up to the rounding of batched arithmetic.
    Where the memory does not suffice for a batch, smaller ones are made.

    Args:
        model: The model, with or without an adapter.
        prompts: Token ids.
        max_new_tokens: Longest output; the model's own context length is a limit too.
        thinking_budget: After this many tokens without the closing tag, it is written by force.
        reasoning_close: The template's text that closes the reasoning; its tag counts without the
            white space around it.
        temperature: 0 takes the likeliest token each time.
        top_p: Nucleus sampling; 1 keeps all tokens.
        seed: Seed of the sampling, of all prompts or of each.
        stop: Text that ends an output.
        batch_size: Prompts generated at once.
        on_progress: Called with the finished and all prompts, whenever one finishes.
        on_output: Called with the number of a prompt and its output, once, whenever one finishes.

    Raises:
        PromptError: If a prompt is empty, too long for the model, or of another tokenizer.
        NonFiniteError: If the logits become NaN or infinite.
    """
    limits = _row_limits(model, max_new_tokens, thinking_budget, reasoning_close, stop)
    check_prompts(model, prompts)
    # Long ones first: if the memory does not suffice, that shows at once.
    waiting = sorted(range(len(prompts)), key=lambda index: -len(prompts[index]))
    finished: dict[int, OutputRow] = {}

    told: set[int] = set()

    def finish(row: OutputRow) -> None:
        finished[row.index] = row
        if on_progress is not None:
            on_progress(len(finished), len(prompts))
        if on_output is not None and row.index not in told:
            told.add(row.index)
            on_output(row.index, _generation(row))

    if temperature > 0:
        all_generators = prompt_generators(prompts, seed=seed)
        states = [generator.get_state() for generator in all_generators]
    else:
        all_generators, states = [torch.Generator()] * len(prompts), []  # nothing is drawn
    size = max(1, batch_size)
    while waiting:
        batch = waiting[:size]
        if states:
            for index in batch:
                all_generators[index].set_state(states[index])
        rows = [_new_row(model, index, prompts[index], limits) for index in batch]
        try:
            steps = _decode(
                model,
                rows,
                prompts=[prompts[index] for index in batch],
                generators=[all_generators[index] for index in batch],
                temperature=temperature,
                top_p=top_p,
            )
            for ended in steps:
                for row in ended:
                    finish(row)
        except torch.OutOfMemoryError:
            if size == 1:
                raise
            for index in batch:
                finished.pop(index, None)
            size = max(1, len(batch) // 2)
            torch.cuda.empty_cache()
            logger.warning("out of memory: going on with %d prompts at once", size)
            continue
        waiting = waiting[len(batch) :]
    return [_generation(finished[index]) for index in range(len(prompts))]


def stream(
    model: Model,
    prompt: Sequence[int],
    *,
    max_new_tokens: int,
    thinking_budget: int | None = None,
    reasoning_close: str = DEFAULT_CLOSE,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
    stop: Sequence[str] = (),
) -> Generator[str, None, Literal["stop", "length"]]:
    """The output's text in pieces, as soon as each is certain; at its end, why it ended.

    All pieces together are `generate`'s text; the arguments are its.
    """
    limits = _row_limits(model, max_new_tokens, thinking_budget, reasoning_close, stop)
    check_prompts(model, [prompt])
    row = _new_row(model, 0, prompt, limits)
    steps = _decode(
        model,
        [row],
        prompts=[prompt],
        generators=prompt_generators([prompt], seed=seed),
        temperature=temperature,
        top_p=top_p,
    )
    for _ in steps:
        if piece := row.take_text():
            yield piece
    if piece := row.take_text():
        yield piece
    return _generation(row).finish_reason


@torch.no_grad()
def _decode(
    model: Model,
    rows: list[OutputRow],
    *,
    prompts: Sequence[Sequence[int]],
    generators: Sequence[torch.Generator],
    temperature: float,
    top_p: float,
) -> Iterator[list[OutputRow]]:
    """Fill the rows; each step gives those that ended with it."""
    decoder, generators = model.decoder, list(generators)
    capacity = max(len(p) + row.limits.max_new_tokens for p, row in zip(prompts, rows))
    lengths = [len(prompt) for prompt in prompts]
    with evaluating(decoder):
        card = graph_decoder(decoder)
        if card is not None:
            cache = card.new_cache(lengths, capacity=capacity)
            read = decoder.hidden_states
            if model.prompt_precision == "fp8":
                read = partial(card.fp8_prompts.hidden_states, adapter=card.adapter)
            hidden_BD = read_prompts(decoder, prompts, cache, read=read)
            yield from decode_rows(
                card,
                rows,
                decoder.logits(hidden_BD),
                cache=cache,
                generators=generators,
                temperature=temperature,
                top_p=top_p,
            )
            return
        cache = new_cache(decoder, lengths, capacity=capacity)
        hidden_BD = read_prompts(decoder, prompts, cache)
        step = DecodeStep.of(decoder)
        logits = decoder.logits if step is None else step.logits
        while True:
            ids = pick_tokens(
                logits(hidden_BD),
                temperature=temperature,
                top_p=top_p,
                generators=generators,
            )
            ids = [row.push(token_id) for row, token_id in zip(rows, ids)]
            open_rows = [index for index, row in enumerate(rows) if row.finish_reason is None]
            yield [row for row in rows if row.finish_reason is not None]
            if not open_rows:
                return
            if len(open_rows) < len(rows):
                cache.keep(open_rows)
                rows = [rows[index] for index in open_rows]
                ids = [ids[index] for index in open_rows]
                generators = [generators[index] for index in open_rows]
            token_ids_B = torch.tensor(ids, device=decoder.device)
            if step is not None:
                hidden_BD = step(token_ids_B, cache=cache)
            else:
                hidden_BD = decoder.forward_cached(token_ids_B[:, None], cache=cache)[:, 0]


def _row_limits(
    model: Model,
    max_new_tokens: int,
    thinking_budget: int | None,
    reasoning_close: str,
    stop: Sequence[str],
) -> RowLimits:
    return RowLimits(
        max_new_tokens=max_new_tokens,
        eos_ids=frozenset(model.eos_ids),
        stop=tuple(text for text in stop if text),
        thinking_budget=thinking_budget,
        close_tag=reasoning_close.strip(),
        close_ids=tuple(model.tokenizer.encode(reasoning_close)),
    )


def _new_row(model: Model, index: int, prompt: Sequence[int], limits: RowLimits) -> OutputRow:
    room = context_length(model) - len(prompt)
    limits = limits.within(room) if room < limits.max_new_tokens else limits
    return OutputRow(index, model.tokenizer.stream_decoder(skip_special=False), limits)


def _generation(row: OutputRow) -> Generation:
    if row.finish_reason is None:
        raise AssertionError("the row is still open")
    return Generation(tuple(row.token_ids), row.text, row.finish_reason, row.num_thinking_tokens)

"""One arm answers a benchmark; every output reaches the disk before the next is waited for.

```
OUT/medqa/base.jsonl                a record per case and sample, appended as outputs come
OUT/medqa/likelihood/base.jsonl     a record per case: log-probabilities of its options
```

Records are keyed by all that they depend on. A run that was killed reads both files back, drops
half a line at their end, and asks only for what is missing.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from medimind.engines.engine import Reply
from medimind.evaluation.answering.asks import Arm, Ask, Plan, Progress, blank_record, make_asks
from medimind.evaluation.answering.likelihoods import ask_likelihoods
from medimind.evaluation.benchmarks.read import BenchmarkItems
from medimind.evaluation.outputs import rescore, with_output
from medimind.evaluation.records import Record, RecordFile, unwritable
from medimind.prompts.parse import parse_output


@dataclass(frozen=True, slots=True)
class ArmAnswers:
    """The records of an arm, case by case and sample by sample, and notes on them."""

    arm: Arm
    records: tuple[Record, ...]
    notes: tuple[str, ...]


def answer_benchmark(
    items: BenchmarkItems,
    *,
    arm: Arm,
    plan: Plan,
    folder: Path,
    progress: Progress | None = None,
) -> ArmAnswers:
    """All that the plan wants of one arm, in ``folder``; what is there already is not asked again.

    Args:
        items: The questions.
        arm: Who answers.
        plan: How.
        folder: Where the records go; one folder per benchmark.
        progress: Called after each output.

    Raises:
        EngineError: An output cannot be had; all others are recorded first.
        EvaluationError: The plan measures nothing, ids repeat, or records cannot be written.
        PromptError: A prompt cannot be rendered.
    """
    plan.check()
    name = items.card.name
    asks = make_asks(name, items.cases, arm=arm, plan=plan)
    try:
        likelihoods, notes = ask_likelihoods(
            items, arm=arm, plan=plan, folder=folder, progress=progress
        )
        keys = [ask.key for ask in asks]
        file = RecordFile(folder / f"{arm.name}.jsonl", wanted=keys, keep_others=True)
        waiting = [ask for ask in asks if ask.key in file.missing]
        _generate(name, waiting, likelihoods, arm=arm, plan=plan, file=file, show=progress)
        # What an older version wrote is read by the rules of this one.
        records = tuple(map(rescore, file.finish()))
    except OSError as error:
        raise unwritable(f"what '{arm.name}' answered", error, where=folder) from None
    return ArmAnswers(arm, records, (*notes, *file.notes))


def _generate(
    name: str,
    asks: list[Ask],
    likelihoods: dict[str, dict[str, Any]],
    *,
    arm: Arm,
    plan: Plan,
    file: RecordFile,
    show: Progress | None,
) -> None:
    total = file.num_wanted
    done = total - len(asks)
    title = f"{name}, {arm.title}"

    def record(ask: Ask, reply: Reply | None) -> None:
        found = likelihoods.get(ask.case.id, {}) if ask.sample == 0 else {}
        nonlocal done
        file.append([_record(name, ask, reply, found, arm=arm, plan=plan)])
        done += 1
        if show is not None:
            show(title, done, total)

    if show is not None:
        show(title, done, total)
    if plan.decoding is None:
        for ask in asks:
            record(ask, None)
    elif asks:
        arm.engine.answer(
            [ask.request for ask in asks],
            decoding=plan.decoding,
            variant=arm.variant,
            on_reply=lambda index, reply: record(asks[index], reply),
        )


def _record(
    name: str,
    ask: Ask,
    reply: Reply | None,
    likelihood: dict[str, Any],
    *,
    arm: Arm,
    plan: Plan,
) -> Record:
    record = blank_record(name, ask, key=ask.key, arm=arm, values=likelihood)
    if reply is None or plan.decoding is None:
        return record
    markers = reply.markers or ()
    record = dataclasses.replace(
        record,
        prompt=_shown_prompt(ask) if reply.prompt is None else reply.prompt,
        open_in_prompt=reply.open_in_prompt,
        markers=markers,
        num_prompt_tokens=reply.num_prompt_tokens,
        seconds=round(reply.seconds, 3),
    )
    return with_output(
        record,
        reply.text,
        parsed=parse_output(reply.text, open_in_prompt=reply.open_in_prompt, markers=markers),
        finish_reason="length" if reply.finish_reason == "length" else "stop",
        token_ids=reply.token_ids,
        num_tokens=reply.num_tokens,
        num_thinking_tokens=reply.num_thinking_tokens,
        thinking_budget=plan.decoding.thinking_budget,
    )


def _shown_prompt(ask: Ask) -> str:
    """The messages one after the other, where the engine does not show what its model read."""
    return "\n\n".join(f"{one.role}: {one.content}" for one in ask.request.messages)

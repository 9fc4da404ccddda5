"""The arms of a comparison, and how one arm answers all cases.

| arm | adapter | prompt |
|---|---|---|
| ``base_native`` | off | the checkpoint's own chat template |
| ``base`` | off | the recipe's template |
| ``tuned`` | on | the recipe's template |

Cases, order, decoding and scoring are the same for all of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from medimind.cases.case import Case
from medimind.evaluation.items import Arm, Decoding, Item, Setting, make_items
from medimind.evaluation.measure import measure
from medimind.evaluation.outputs import rescore
from medimind.evaluation.records import Record, RecordFile, unwritable
from medimind.evaluation.results import NATIVE_NAME
from medimind.models.load import Model
from medimind.models.lora import adapter_disabled
from medimind.prompts.templates import Template

Progress = Callable[[str, int, int], None]
"""Called with the arm's name, its finished and its wanted cases."""

BASE_NATIVE = Arm(NATIVE_NAME, "Base model, its own chat template", adapter=False, native=True)
BASE = Arm("base", "Base model", adapter=False, native=False)
TUNED = Arm("tuned", "Tuned model", adapter=True, native=False)


@dataclass(frozen=True, slots=True)
class ArmResult:
    """The records of an arm in the order of the cases, and what should be told about them."""

    arm: Arm
    records: tuple[Record, ...]
    notes: tuple[str, ...]


def run_arm(
    model: Model,
    cases: Sequence[Case],
    *,
    arm: Arm,
    template: Template,
    decoding: Decoding,
    folder: Path,
    num_asked: int,
    option_likelihood: bool = True,
    with_options: bool = True,
    batch_size: int = 16,
    context: Mapping[str, object] | None = None,
    progress: Progress | None = None,
) -> ArmResult:
    """Loss, generated answer and likeliest option of every case, in ``folder/<arm>.jsonl``.

    Records are written batch by batch. After a kill the next call keeps every finished record
    whose key is the same, and asks only for the others; the batches are those of the whole run.

    Args:
        model: With the adapter attached; it is switched off for the base arms.
        cases: The held-out cases; their ids must differ.
        arm: The arm.
        template: The recipe's template.
        decoding: How answers are generated.
        folder: Where the records go.
        num_asked: Answers are generated for this many cases, from the first on.
        option_likelihood: Also find the likeliest option.
        with_options: Show the options of a case.
        batch_size: Cases answered at once.
        context: Further settings that the records depend on.
        progress: Called after each batch.

    Raises:
        EvaluationError: If ids repeat or the records cannot be written.
        PromptError: If a prompt cannot be rendered.
    """
    setting = Setting(model, arm, template, decoding, option_likelihood, with_options)
    items, notes = make_items(setting, cases, num_asked=num_asked, context=context or {})
    try:
        file = RecordFile(folder / f"{arm.name}.jsonl", wanted=[item.key for item in items])
        waiting = file.missing
        done = len(items) - len(waiting)
        if progress is not None:
            progress(arm.name, done, len(items))
        with _adapter(model, is_on=arm.adapter):
            for batch in _batches(items, size=batch_size):
                new = [item for item in batch if item.key in waiting]
                if new:
                    file.append(measure(setting, new))
                    done += len(new)
                    if progress is not None:
                        progress(arm.name, done, len(items))
        # What an older version wrote is read by the rules of this one.
        records = tuple(map(rescore, file.finish()))
    except OSError as error:
        raise unwritable(f"what '{arm.name}' answered", error, where=folder) from None
    return ArmResult(arm, records, (*notes, *file.notes))


def _adapter(model: Model, *, is_on: bool) -> contextlib.AbstractContextManager[None]:
    return contextlib.nullcontext() if is_on else adapter_disabled(model.decoder)


def _batches(items: Sequence[Item], *, size: int) -> list[list[Item]]:
    """Cases of similar length together, long ones first; always the same for the same cases."""
    order = sorted(items, key=lambda item: -len(item.prompt_ids))
    return [order[start : start + size] for start in range(0, len(order), size)]

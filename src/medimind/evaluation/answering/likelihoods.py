"""The likeliest option of each case by one arm, kept beside its outputs.

```
OUT/medqa/likelihood/base.jsonl     a record per case, appended as passes end
```
"""

from __future__ import annotations

import dataclasses
import math
from pathlib import Path
from typing import Any

from medimind.cases.case import OPTION_LETTERS, Case
from medimind.engines.engine import OptionRequest
from medimind.errors import EvaluationError
from medimind.evaluation.answering.asks import (
    Arm,
    Ask,
    Plan,
    Progress,
    blank_record,
    likelihood_ask,
    likelihood_key,
    make_asks,
)
from medimind.evaluation.benchmarks.read import BenchmarkItems
from medimind.evaluation.records import RecordFile

_FIELDS = ("option_logprobs", "likeliest", "likeliest_correct", "asked_likelihood")
_NO_LIKELIHOOD = "{}: the engine does not tell option likelihoods, so they are left out"


def ask_likelihoods(
    items: BenchmarkItems,
    *,
    arm: Arm,
    plan: Plan,
    folder: Path,
    progress: Progress | None = None,
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """Fields of the records by case id, and notes; what is there already is not asked again.

    Args:
        items: The questions; those without options are left out.
        arm: Who is asked.
        plan: With the wording of the prompt.
        folder: The benchmark's folder.
        progress: Called after each case.

    Raises:
        EngineError: The engine fails; what is there is recorded.
        EvaluationError: Figures are not finite, or the wording does not suit the benchmark.
        OSError: Records cannot be written.
    """
    wanted = _wanted(items, arm=arm, plan=plan)
    if not wanted:
        return {}, []
    name = items.card.name
    path = folder / "likelihood" / f"{arm.name}.jsonl"
    file = RecordFile(path, wanted=list(wanted), keep_others=True)
    missing = file.missing
    waiting = [key for key in wanted if key in missing]
    done = file.num_wanted - len(waiting)

    def record(index: int, logprobs: list[float]) -> None:
        nonlocal done
        key = waiting[index]
        ask, _ = wanted[key]
        values = {**likeliest_option(ask.case, logprobs), "asked_likelihood": plan.likelihood}
        file.append([blank_record(name, ask, key=key, arm=arm, values=values)])
        done += 1
        if progress is not None:
            progress(f"{name}, {arm.title}, likeliest option", done, file.num_wanted)

    if waiting:
        requests = [wanted[key][1] for key in waiting]
        told = arm.engine.option_logprobs(requests, variant=arm.variant, on_logprobs=record)
        if told is None:
            return {}, [_NO_LIKELIHOOD.format(arm.title)]
    found = {
        record.case_id: {field: getattr(record, field) for field in _FIELDS}
        for record in file.finish()
    }
    return found, file.notes


def _wanted(items: BenchmarkItems, *, arm: Arm, plan: Plan) -> dict[str, tuple[Ask, OptionRequest]]:
    """What is asked, by the keys of the records."""
    if plan.likelihood is None:
        return {}
    name, identity = items.card.name, arm.engine.identity(arm.variant)
    wanted = {}
    for ask in make_asks(name, items.cases, arm=arm, plan=dataclasses.replace(plan, num_samples=1)):
        asked = likelihood_ask(ask.case, items.benchmark, wording=plan.likelihood)
        if asked is not None:
            key = likelihood_key(name, ask.case, asked, arm=arm, identity=identity)
            wanted[key] = (ask, asked)
    return wanted


def likeliest_option(case: Case, logprobs: list[float]) -> dict[str, Any]:
    """The fields that a record gets from the log-probabilities of a case's options.

    Raises:
        EvaluationError: They are not finite.
    """
    if not all(map(math.isfinite, logprobs)):
        raise EvaluationError(
            f"the option likelihoods of the case '{case.id}' are not finite",
            fix="The weights or the adapter are damaged, or need a wider dtype "
            "(model.dtype: bfloat16 or float32)",
        )
    best = max(range(len(logprobs)), key=logprobs.__getitem__)
    return {
        "option_logprobs": tuple(logprobs),
        "likeliest": OPTION_LETTERS[best],
        "likeliest_correct": best == case.answer_index,
    }

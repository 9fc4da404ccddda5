"""Judges behind endpoints, opened, asked and closed."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

from medimind.config.judge import JudgeConfig
from medimind.evaluation.judge.agreement import JudgedArm, summarise_judged
from medimind.evaluation.judge.ask import Judge, ask_judges
from medimind.evaluation.records import Record

NOTHING_TO_JUDGE = (
    "a judge was named, but no answer is an open one with a gold answer: it was asked nothing"
)
"""Told where judges are named and :func:`judge_records` comes back with nothing."""


def judge_records(
    records: Sequence[Record],
    *,
    judges: Sequence[JudgeConfig],
    folder: Path,
    titles: Mapping[str, str] = MappingProxyType({}),
    confidence: float = 0.95,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[JudgedArm, ...]:
    """What judges behind endpoints make of the open answers among the records.

    Args:
        records: Records of one or several arms.
        judges: One or two; without any, nothing is asked.
        folder: Where the judgements go.
        titles: What a report calls the arms.
        confidence: Level of the intervals.
        progress: Called with a judge's name, its finished and its wanted judgements.

    Raises:
        EngineError: A judge cannot be reached; what it said so far is recorded.
        EvaluationError: The judgements cannot be written.
        MissingExtraError: The package for endpoints is not installed.
    """
    if not judges:
        return ()
    from medimind.engines.endpoint import EndpointEngine

    opened = [
        Judge(
            judge.file_name,
            EndpointEngine(judge.url, model=judge.model, api_key=os.environ.get(judge.api_key_env)),
            judge.max_new_tokens,
        )
        for judge in judges
    ]
    try:
        judgements = ask_judges(opened, records, folder=folder, progress=progress)
    finally:
        for judge in opened:
            judge.engine.close()
    return summarise_judged(records, judgements, titles=titles, confidence=confidence)

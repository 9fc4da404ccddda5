"""Judges asked about every open answer, in both orders; what is there already is not asked again.

```
FOLDER/<judge>.jsonl     a line per answer and order: key, arm, case, sample, order, verdict, reply
```
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from medimind.config.judge import JUDGE_TOKENS
from medimind.engines.engine import Decoding, Engine, Message, Reply, Request
from medimind.errors import EvaluationError
from medimind.evaluation.judge.rubric import (
    ORDERS,
    RUBRIC,
    SYSTEM,
    Order,
    Verdict,
    judge_prompt,
    read_verdict,
)
from medimind.evaluation.records import Record, digest

_VERSION = 1


@dataclass(frozen=True, slots=True)
class Judge:
    """A model that judges, greedily; ``name`` is that of its file and in the report."""

    name: str
    engine: Engine
    max_new_tokens: int = JUDGE_TOKENS


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one judge said about one answer in one order."""

    key: str
    judge: str
    arm: str
    case_id: str
    sample: int
    order: Order
    verdict: Verdict
    reply: str


def ask_judges(
    judges: Sequence[Judge],
    records: Sequence[Record],
    *,
    folder: Path,
    progress: Callable[[str, int, int], None] | None = None,
) -> tuple[Judgement, ...]:
    """Every judge on every open answer that was read, twice; unread ones are wrong without asking.

    Args:
        judges: One, or two whose agreement is then shown.
        records: Records of one or several arms; those that are not open, or have no answer, are
            left out.
        folder: Where the judgements go.
        progress: Called with a judge's name, its finished and its wanted judgements.

    Raises:
        EngineError: A reply cannot be had; what is there is recorded.
        EvaluationError: The judgements cannot be written, or two judges have the same name.
    """
    names = [judge.name for judge in judges]
    if len(set(names)) != len(names):
        raise EvaluationError(
            f"two judges have the same name: {names[0]}",
            fix="Name them apart: 'name' in the recipe, or --judge NAME=MODEL@URL",
        )
    asked = [one for one in records if is_judged(one)]
    found: list[Judgement] = []
    for judge in judges:
        found += _ask(judge, asked, folder=folder, progress=progress)
    return tuple(found)


def is_judged(record: Record) -> bool:
    """Whether a judge can say anything about a record."""
    return record.kind == "open" and record.status == "parsed" and bool(record.gold)


def _ask(
    judge: Judge,
    records: Sequence[Record],
    *,
    folder: Path,
    progress: Callable[[str, int, int], None] | None,
) -> list[Judgement]:
    identity = judge.engine.identity("base")
    decoding = Decoding(max_new_tokens=judge.max_new_tokens, temperature=0.0)
    if judge.max_new_tokens != JUDGE_TOKENS:  # what was judged before there was a choice stays
        identity += f"/{judge.max_new_tokens}"
    wanted: dict[str, tuple[Record, Order]] = {
        digest([_VERSION, RUBRIC, identity, record.key, record.answer_part, order]): (record, order)
        for record in records
        for order in ORDERS
    }
    path = folder / f"{judge.name}.jsonl"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        known = {one.key: one for one in _read(path) if one.key in wanted}
        missing = [key for key in wanted if key not in known]
        done = len(known)
        with path.open("a", encoding="utf-8", errors="replace") as file:

            def keep(number: int, reply: Reply) -> None:
                nonlocal done
                key = missing[number]
                known[key] = _judgement(judge.name, key, *wanted[key], reply)
                line = json.dumps(dataclasses.asdict(known[key]), ensure_ascii=False)
                file.write(line + "\n")
                file.flush()
                os.fsync(file.fileno())
                done += 1
                if progress is not None:
                    progress(f"judge {judge.name}", done, len(wanted))

            if missing:
                requests = [_request(*wanted[key]) for key in missing]
                judge.engine.answer(requests, decoding=decoding, on_reply=keep)
    except OSError as error:
        raise EvaluationError(
            f"the judgements cannot be written ({error.strerror or error})", where=str(path)
        ) from None
    return [known[key] for key in wanted]


def _request(record: Record, order: Order) -> Request:
    prompt = judge_prompt(
        record.question, gold=record.gold or "", answer=record.answer_part or "", order=order
    )
    return Request((Message("system", SYSTEM), Message("user", prompt)))


def _judgement(judge: str, key: str, record: Record, order: Order, reply: Reply) -> Judgement:
    verdict = "unreadable" if reply.finish_reason == "length" else read_verdict(reply.text)
    return Judgement(
        key, judge, record.arm, record.case_id, record.sample, order, verdict, reply.text
    )


def _read(path: Path) -> list[Judgement]:
    """Judgements of an earlier call; a line that was torn by a kill is asked again."""
    if not path.exists():
        return []
    data = path.read_bytes()
    if data and not data.endswith(b"\n"):
        path.write_bytes(data[: data.rfind(b"\n") + 1])
    found = []
    for line in data.splitlines():
        try:
            found.append(Judgement(**json.loads(line)))
        except (ValueError, TypeError):
            continue
    return found

"""The cases that a report shows side by side, picked by a rule and not by taste."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from medimind.cases.case import Case
from medimind.evaluation.evaluation import Example, ExampleOutput
from medimind.evaluation.records import Record

EXAMPLE_RULE = (
    "in turn, the first case not shown yet that was lost, gained, wrong both times and right both "
    "times (in the order of the cases), then the remaining ones in order"
)
_KINDS = ("lost", "gained", "wrong both times", "right both times", "not scored")


def pick_examples(
    cases: Sequence[Case],
    *,
    before: Mapping[str, Record],
    after: Mapping[str, Record],
    arms: Sequence[tuple[str, str, Mapping[str, Record]]],
    num: int,
) -> tuple[Example, ...]:
    """Up to ``num`` cases that both sides answered, by :data:`EXAMPLE_RULE`.

    Args:
        cases: The held-out cases.
        before: Records to tell lost from gained, by case id.
        after: The same for the judged arm.
        arms: Name, title and records of the arms whose outputs are shown.
        num: How many.
    """
    groups: dict[str, list[Case]] = {kind: [] for kind in _KINDS}
    for case in cases:
        first, second = before.get(case.id), after.get(case.id)
        if first is not None and second is not None and first.is_asked and second.is_asked:
            groups[_kind(first, second)].append(case)
    picked: list[tuple[str, Case]] = []
    while len(picked) < num and any(groups.values()):
        for kind in _KINDS:
            if groups[kind] and len(picked) < num:
                picked.append((kind, groups[kind].pop(0)))
    return tuple(_example(case, kind, arms) for kind, case in picked)


def pick_from_records(
    arms: Sequence[tuple[str, Sequence[Record]]], *, num: int
) -> tuple[Example, ...]:
    """The same from records alone, the first arm against the second; first outputs are shown.

    Args:
        arms: Name and records of each arm, in the order they are shown.
        num: How many.
    """
    if len(arms) < 2 or num == 0:
        return ()
    found = [(name, name, _first_outputs(records)) for name, records in arms]
    before, after = found[0][2], found[1][2]
    cases = [
        Case(
            id=record.case_id,
            question=record.question,
            response="",
            options=tuple(filter(None, record.options)),
            source=record.benchmark or "",
        )
        for record in before.values()
        if record.case_id in after
    ]
    return pick_examples(cases, before=before, after=after, arms=found, num=num)


def _first_outputs(records: Sequence[Record]) -> dict[str, Record]:
    found: dict[str, Record] = {}
    for record in records:
        found.setdefault(record.case_id, record)
    return found


def _kind(before: Record, after: Record) -> str:
    if before.correct is None or after.correct is None:
        return "not scored"
    if before.correct == after.correct:
        return "right both times" if after.correct else "wrong both times"
    return "gained" if after.correct else "lost"


def _example(
    case: Case, kind: str, arms: Sequence[tuple[str, str, Mapping[str, Record]]]
) -> Example:
    records = [(name, title, found[case.id]) for name, title, found in arms if case.id in found]
    return Example(
        case_id=case.id,
        question=case.question,
        options=records[0][2].options if any(records[0][2].options) else (),
        gold=records[0][2].gold,
        gold_reasoning=case.reasoning,
        gold_response=case.response,
        why=kind,
        outputs=tuple(
            ExampleOutput(
                arm=name,
                title=title,
                output=record.output or "",
                answer_part=record.answer_part or "",
                status=record.status or "",
                extracted=record.extracted,
                correct=record.correct,
                num_tokens=record.num_tokens,
                likeliest=record.likeliest,
            )
            for name, title, record in records
        ),
    )

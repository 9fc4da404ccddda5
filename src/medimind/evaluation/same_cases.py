"""Whether two records are of the same case, and cases of other programs' files found again."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from medimind.evaluation.records import Record
from medimind.evaluation.results import ResultSet

_Case = tuple[str | None, str]
"""Benchmark and question, its white space brought to one form."""


def is_same_case(one: Record, other: Record) -> bool:
    """Whether question, options and gold answer are the same.

    Texts of options count only where both list them: many programs' files hold letters alone.
    """
    are_listed = any(one.options) and any(other.options)
    return (
        _question(one) == _question(other)
        and one.gold == other.gold
        and len(one.options) == len(other.options)
        and (not are_listed or one.options == other.options)
    )


def pair_by_question(sets: Sequence[ResultSet]) -> list[ResultSet]:
    """The sets, those with ids of their own under the ids of the first, which the question tells.

    Programs number their cases as they like. A set that shares no id with the first takes its ids
    where both hold each question once, and a note says so; all others stay as they are.

    Args:
        sets: The one compared against, then the others.
    """
    if not sets:
        return []
    first = sets[0]
    known, ids = _by_question(first), {record.case_id for record in first.records}
    found = [first]
    for one in sets[1:]:
        own = _by_question(one)
        is_apart = not any(record.case_id in ids for record in one.records)
        if is_apart and known and own and not known.keys().isdisjoint(own):
            one = _renamed(one, {own[case]: known[case] for case in own if case in known})
        found.append(one)
    return found


def _renamed(one: ResultSet, names: dict[str, str]) -> ResultSet:
    note = f"{one.name}: its ids are its own, so its cases are found by their questions"
    return dataclasses.replace(
        one,
        records=tuple(
            dataclasses.replace(record, case_id=names.get(record.case_id, record.case_id))
            for record in one.records
        ),
        verdicts={
            (names.get(case_id, case_id), sample): verdict
            for (case_id, sample), verdict in one.verdicts.items()
        },
        notes=(*one.notes, note),
    )


def _by_question(one: ResultSet) -> dict[_Case, str]:
    """Id of each question; empty where a question stands under several ids."""
    found: dict[_Case, str] = {}
    for record in one.records:
        case = (record.benchmark, _question(record))
        if found.setdefault(case, record.case_id) != record.case_id:
            return {}
    return found


def _question(record: Record) -> str:
    return " ".join(record.question.split())

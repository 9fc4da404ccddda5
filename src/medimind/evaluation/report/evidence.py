"""What stands beside a comparison: judges, other programs' verdicts, overlap with training rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

from medimind.evaluation.compare import Agreement
from medimind.evaluation.evidence import Evidence
from medimind.evaluation.judge import JUDGE_RULE, JudgedArm
from medimind.evaluation.misled import MISLED_RULE
from medimind.evaluation.records import HELD_OUT
from medimind.evaluation.report.sections import Section, Table, share_text
from medimind.evaluation.results import some
from medimind.evaluation.trained_on import BenchmarkOverlap
from medimind.evaluation.wording import count_text

_SHOWN = 10


def evidence_sections(
    evidence: Evidence, agreements: Sequence[Agreement], *, unnamed: str = HELD_OUT
) -> list[Section]:
    """Judges, the files' own verdicts and overlap; what was not measured is left out."""
    found = [
        _judge_section(evidence.judged),
        _agreement_section(agreements),
        _overlap_section(evidence.overlaps, unnamed),
    ]
    return [section for section in found if section is not None]


def evidence_rules(evidence: Evidence) -> tuple[str, ...]:
    """The rules behind what was measured."""
    hints = (MISLED_RULE,) if evidence.misled else ()
    return (*hints, JUDGE_RULE) if evidence.judged else hints


def _agreement_section(agreements: Sequence[Agreement]) -> Section | None:
    if not agreements:
        return None
    rows = tuple(
        (
            one.name,
            share_text(one.both_right + len(one.only_theirs), one.num),
            share_text(one.both_right + len(one.only_ours), one.num),
            f"{one.both_right:,}",
            f"{len(one.only_theirs):,}",
            f"{len(one.only_ours):,}",
            _kappa(one.kappa),
        )
        for one in agreements
    )
    head = (
        "File",
        "Right by the file",
        "Right by our rule",
        "By both",
        "Only by the file",
        "Only by our rule",
        "Cohen's kappa",
    )
    sentences = ["The same outputs, judged by whoever wrote the file and by the rule named below."]
    for one in agreements:
        for title, ids in (
            ("right only by the file", one.only_theirs),
            ("right only by our rule", one.only_ours),
        ):
            if ids:
                more = f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else ""
                sentences.append(f"{one.name}, {title}: {', '.join(ids[:_SHOWN])}{more}.")
    return Section(
        "verdicts",
        "The file's own verdicts",
        tuple(sentences),
        tables=(Table("Verdicts side by side", head, rows),),
    )


def _judge_section(judged: Sequence[JudgedArm]) -> Section | None:
    if not judged:
        return None
    rows = tuple(
        (
            f"{one.shown}, judged by {one.judge}",
            share_text(one.right, one.num_open),
            f"{100 * one.interval.low:.0f} to {100 * one.interval.high:.0f}\N{NO-BREAK SPACE}%",
            share_text(one.right_by_rule, one.num_open),
            f"{one.turned:,}",
            f"{one.unreadable:,}",
            _kappa(one.kappa_with_rule),
            "–" if one.kappa_with_other is None else _kappa(one.kappa_with_other),
        )
        for one in judged
    )
    head = (
        "Open answers",
        "Right by the judge",
        "Interval",
        "Right by words",
        "Turned with the order",
        "No verdict",
        "Kappa with words",
        "Kappa with the other judge",
    )
    sentences = (
        "A language model compared each open answer with the gold answer, once in each order. A "
        "verdict that turns with the order, or is missing, counts as wrong. A judge is a model "
        "itself: trust it as far as two judges agree (Cohen's kappa: 1 is full agreement, 0 what "
        "chance gives).",
    )
    return Section(
        "judges",
        "Open answers, judged by a model",
        sentences,
        tables=(Table("Judges and arms", head, rows),),
    )


def overlap_warnings(
    overlaps: Sequence[BenchmarkOverlap], *, unnamed: str = HELD_OUT
) -> tuple[str, ...]:
    """Where a model is judged by what it was trained on; to be read before any figure."""
    return tuple(
        f"{one.benchmark or unnamed}: {count_text(len(one.repeated), 'item')} of "
        f"{one.num_items:,} repeated in the training rows ({some(one.repeated)}); figures on them "
        "are too good"
        for one in overlaps
        if one.repeated
    )


def _overlap_section(overlaps: Sequence[BenchmarkOverlap], unnamed: str) -> Section | None:
    if not overlaps:
        return None
    rows = tuple(
        (
            one.benchmark or unnamed,
            f"{one.num_items:,}",
            f"{one.num_train:,}",
            f"{len(one.repeated):,}",
            f"{len(one.hits):,}",
            f"{len(one.shared_ids):,}",
            f"{one.num_too_short:,}",
        )
        for one in overlaps
    )
    head = (
        "Judged on",
        "Items",
        "Training rows",
        "Items repeated",
        "Training rows that repeat one",
        "Ids in common",
        "Too short to check",
    )
    first = overlaps[0]
    warnings = overlap_warnings(overlaps, unnamed=unnamed)
    return Section(
        "overlap",
        "Training rows and test items",
        (
            f"An item counts as repeated if one training row holds at least {first.threshold:.0%} "
            f"of its {first.ngram}-word sequences.",
        ),
        warnings=warnings,
        tables=(Table("Training rows against what the model is judged by", head, rows),),
    )


def _kappa(value: float) -> str:
    return "undefined" if math.isnan(value) else f"{value:.2f}".replace("-", "\N{MINUS SIGN}")

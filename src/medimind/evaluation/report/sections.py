"""Parts of a report that are sentences, tables and charts, whatever they are about."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from medimind.evaluation.arm import ArmSummary
from medimind.evaluation.calibration import Calibration
from medimind.evaluation.misled import Misled
from medimind.evaluation.records import HELD_OUT
from medimind.evaluation.report.charts import Chart
from medimind.evaluation.report.reliability import draw_reliability
from medimind.evaluation.statistics import Interval
from medimind.evaluation.wording import (
    count_text,
    difference_text,
    interval_text,
    p_text,
    share_interval_text,
    value_text,
)

PERCENT = "\N{NO-BREAK SPACE}%"


@dataclass(frozen=True, slots=True)
class Table:
    """Cells as text; the first column names the row, all others are figures."""

    caption: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the report.

    Attributes:
        name: Its id in the page.
        title: Its heading.
        sentences: What is to be known before the figures.
        warnings: What makes the figures less than they seem.
        tables: The figures.
        charts: The same drawn.
    """

    name: str
    title: str
    sentences: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    tables: tuple[Table, ...] = ()
    charts: tuple[Chart, ...] = field(default=(), repr=False)


def arm_sections(arms: Sequence[ArmSummary], misled: Sequence[Misled] = ()) -> list[Section]:
    """Recall by class, calibration and reasoning of the arms; what was not measured is left out."""
    found = [_recall(arms), _calibration(arms), _reasoning(arms), _misled(misled)]
    return [section for section in found if section is not None]


def share_text(count: int, total: int) -> str:
    """``12 of 30 (40.0 %)``; a dash where there is nothing to share."""
    if not total:
        return "–"
    return f"{count:,} of {total:,} ({value_text(count / total, 'share')})"


def _by_benchmark(arms: Sequence[ArmSummary]) -> dict[str | None, list[ArmSummary]]:
    found: dict[str | None, list[ArmSummary]] = {}
    for arm in arms:
        found.setdefault(arm.benchmark, []).append(arm)
    return found


def _recall(arms: Sequence[ArmSummary]) -> Section | None:
    tables = []
    for own in _by_benchmark([arm for arm in arms if arm.recalls]).values():
        labels = [one.label for one in own[0].recalls]
        head = ["Right option"]
        for arm in own:
            head += [f"{arm.title}: right", f"{arm.title}: chosen"]
        rows = []
        for index, label in enumerate(labels):
            row = [label]
            for arm in own:
                if index < len(arm.recalls):
                    one = arm.recalls[index]
                    row += [share_text(one.correct, one.num), f"{one.chosen:,}"]
                else:
                    row += ["–", "–"]
            rows.append(tuple(row))
        mean = ["Mean recall"]
        for arm in own:
            mean += [value_text(arm.balanced, "share") if arm.balanced is not None else "–", ""]
        tables.append(Table(f"On {own[0].place}", tuple(head), (*rows, tuple(mean))))
    if not tables:
        return None
    return Section(
        "recall",
        "Right answers by class",
        (
            "Of the outputs whose right option is this one, how many chose it; and how often it "
            "was chosen at all. A model that favours one letter, or one class, shows it here.",
        ),
        tables=tuple(tables),
    )


def _calibration(arms: Sequence[ArmSummary]) -> Section | None:
    tables, charts = [], []
    measured = [arm for arm in arms if arm.calibration is not None]
    for own in _by_benchmark(measured).values():
        found = [(arm.title, arm.calibration) for arm in own if arm.calibration is not None]
        rows = [_calibration_row(title, one) for title, one in found]
        tables.append(Table(f"On {own[0].place}", _CALIBRATION_HEAD, tuple(rows)))
        charts += draw_reliability(found, name=f"reliability-{len(charts)}", about=own[0].place)
    if not tables:
        return None
    return Section(
        "calibration",
        "How sure, how often right",
        (
            "From the likelihoods of the options, without any thinking. Calibration error: the "
            "mean gap between how sure the model is and how often it is right (0 is best). Few "
            "cases alone make a gap; the column beside says how large one by luck would be. Brier "
            "score: squared distance from the right answer (0 is best, 2 worst).",
        ),
        tables=tuple(tables),
        charts=tuple(charts),
    )


_CALIBRATION_HEAD = (
    "Model",
    "Cases",
    "Right",
    "Mean confidence",
    "Calibration error",
    "By luck alone",
    "Brier score",
    "With no idea",
)


def _calibration_row(title: str, one: Calibration) -> tuple[str, ...]:
    return (
        title,
        f"{one.num_cases:,}",
        value_text(one.accuracy, "share"),
        value_text(one.confidence, "share"),
        f"{value_text(one.error, 'share')} ({share_interval_text(one.error_interval)}{PERCENT})",
        value_text(one.error_by_luck, "share"),
        f"{one.brier:.3f} ({one.brier_interval.low:.3f} to {one.brier_interval.high:.3f})",
        f"{one.brier_of_no_idea:.3f}",
    )


def _reasoning(arms: Sequence[ArmSummary]) -> Section | None:
    tables = []
    thinking = [arm for arm in arms if arm.reasoning and arm.reasoning.num_thinking]
    for own in _by_benchmark(thinking).values():
        found = [arm.reasoning for arm in own if arm.reasoning is not None]
        lines = {
            "Outputs with thinking": [share_text(r.num_thinking, r.num_outputs) for r in found],
            "Well formed": [
                "unknown"
                if r.num_well_formed is None
                else share_text(r.num_well_formed, r.num_outputs)
                for r in found
            ],
            "End in a loop": [share_text(r.num_loops, r.num_outputs) for r in found],
            "Median length, tokens": [_tokens(r.median_tokens) for r in found],
            "Longest tenth from, tokens": [_tokens(r.high_tokens) for r in found],
            "Conclusion and answer both read": [
                share_text(r.num_concluded, r.num_outputs) for r in found
            ],
            "Answer is the conclusion": [
                share_text(r.num_agreeing, r.num_concluded) for r in found
            ],
            "Answer right, conclusion wrong": [f"{r.right_despite:,}" for r in found],
            "Answer wrong, conclusion right": [f"{r.wrong_despite:,}" for r in found],
        }
        rows = tuple((name, *values) for name, values in lines.items())
        head = ("Figure", *(arm.title for arm in own))
        tables.append(Table(f"On {own[0].place}", head, rows))
    if not tables:
        return None
    return Section(
        "reasoning",
        "How it thinks",
        (
            "The conclusion is the option that the last sentences of the thinking assert. Where "
            "the answer is often another one, the thinking is not what the answer comes from.",
        ),
        tables=tuple(tables),
    )


def _misled(misled: Sequence[Misled]) -> Section | None:
    if not misled:
        return None
    rows = tuple(
        (
            one.title,
            share_text(one.followed, one.num_cases),
            share_text(one.same_without, one.num_cases),
            f"{difference_text(one.difference, 'share')} ({_spread(one.interval)})",
            p_text(one.p_value),
            share_text(one.right, one.num_cases),
            share_text(one.right_without, one.num_cases),
            share_text(one.read, one.num_cases),
            share_text(one.read_without, one.num_cases),
        )
        for one in misled
    )
    head = (
        "Model",
        "Followed the hint",
        "Same answer without it",
        "Difference (interval)",
        "p",
        "Right with the hint",
        "Right without",
        "Answer read with the hint",
        "Answer read without",
    )
    return Section(
        "misled",
        "A wrong conclusion put into its thinking",
        (
            "The thinking was made to begin with the conclusion that a wrong option is right. A "
            "model that looks at the findings again resists; one that copies its thinking follows; "
            "one that ignores its thinking does not move. An output without an answer that can be "
            "read neither follows nor resists.",
        ),
        warnings=tuple(
            f"{one.title}: with the hint an answer was read in {one.read:,} of "
            f"{count_text(one.num_cases, 'output')}, so that it seldom follows shows no resistance"
            for one in misled
            if 2 * one.read < one.num_cases
        ),
        tables=(
            Table(
                f"Answers with and without the wrong hint, on {misled[0].benchmark or HELD_OUT}",
                head,
                rows,
            ),
        ),
    )


def _tokens(value: float | None) -> str:
    return "unknown" if value is None or math.isnan(value) else f"{value:,.0f}"


def _spread(interval: Interval | None) -> str:
    return "no spread" if interval is None else interval_text(interval, "share")

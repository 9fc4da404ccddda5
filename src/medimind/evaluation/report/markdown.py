"""The report as Markdown, for pull requests and terminals."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

from medimind.evaluation.evaluation import Example
from medimind.evaluation.report.content import ReportContent
from medimind.evaluation.report.sections import Section
from medimind.evaluation.report.views import ComparisonView
from medimind.evaluation.wording import count_text

_SPECIAL = re.compile(r"([\\`*_{}\[\]<>#|~])")
_HEAD = (
    "Figure",
    "Before",
    "After",
    "Difference",
    "Interval",
    "p (adjusted)",
    "Smallest to show",
    "Cases",
    "Verdict",
)


def markdown_report(content: ReportContent, examples: Sequence[Example]) -> str:
    """The report's text; what models wrote stands in fences that it cannot close."""
    parts = [
        f"# {content.headline}",
        f"{content.addition} Verdict: **{content.verdict}**.".strip(),
        f"{content.subtitle}.",
        *(f"**Not complete:** {escape(warning)}." for warning in content.warnings),
        *_glances(content),
        "## What got better",
        bullets(content.made_better) or "Nothing that can be shown with these cases.",
        "## What got worse",
        bullets(content.made_worse) or "Nothing that can be shown with these cases.",
        *(text for one in content.comparisons for text in _comparison(one)),
        *_reading(content),
        *(text for section in content.sections for text in _section(section)),
        *_examples(content, examples),
        *_training(content),
        *_data(content),
        "## How it was measured",
        table(("Setting", "Value"), content.settings),
        bullets(f"{rule}." for rule in content.rules),
        bullets(content.statistics),
        "## Limits",
        bullets(content.limits),
        *_provenance(content),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _glances(content: ReportContent) -> list[str]:
    if not content.glances:
        return []
    rows = [
        (
            f"{one.place}, {one.way}" + (f" ({one.about})" if one.about else ""),
            *one.shown[:2],
            f"{one.shown[2]} by {one.mark_name}" if one.shown[2] else "unknown",
            one.verdict,
        )
        for one in content.glances
    ]
    head = ("Right answers", "Before", "After", "Without knowing", "Verdict")
    return ["## Right answers at a glance", table(head, rows)]


def _comparison(comparison: ComparisonView) -> list[str]:
    rows = [
        (
            row.title,
            row.before,
            row.after,
            row.difference,
            row.interval,
            f"{row.p_value} ({row.adjusted})",
            row.detectable,
            str(row.num_cases),
            row.verdict,
        )
        for row in comparison.rows
    ]
    parts = [f"## {comparison.title}"]
    parts += [f"**Not complete:** {escape(warning)}." for warning in comparison.warnings]
    parts.append(table(_HEAD, rows))
    for changed in comparison.changed:
        for name, cases in (("gained", changed.gained), ("lost", changed.lost)):
            listed = ", ".join(escape(case_id) for case_id, _ in cases) or "none"
            parts.append(f"{changed.title}, {name} ({len(cases)}): {listed}.")
    return parts


def _reading(content: ReportContent) -> list[str]:
    if not content.arms:
        return []
    names = [name for name, _ in content.arms[0].statuses]
    rows = [
        (arm.title, *(count for _, count in arm.statuses), arm.correct, arm.interval)
        for arm in content.arms
    ]
    parts = ["## How the answers were read", *(f"Note: {escape(n)}." for n in content.notes)]
    parts.append(table(("Asked", *names, "Right", "Interval"), rows))
    if scored := [arm for arm in content.arms if arm.sensitivity]:
        rules = [rule for rule, _ in scored[0].sensitivity]
        parts.append("Right answers by other rules, on the same outputs:")
        parts.append(
            table(
                ("Rule", *(arm.title for arm in scored)),
                [
                    (rule, *(arm.sensitivity[index][1] for arm in scored))
                    for index, rule in enumerate(rules)
                ],
            )
        )
    return parts


def _section(section: Section) -> list[str]:
    parts = [f"## {section.title}"]
    parts += [escape(sentence) for sentence in section.sentences]
    parts += [f"**Mind:** {escape(warning)}." for warning in section.warnings]
    for one in section.tables:
        parts += [f"{escape(one.caption)}:", table(one.head, one.rows)]
    return parts


def _examples(content: ReportContent, examples: Sequence[Example]) -> list[str]:
    if not examples:
        return []
    parts = ["## Side by side", f"Picked by rule: {content.example_rule}."]
    for example in examples:
        parts += _example(example)
    return parts


def _example(example: Example) -> list[str]:
    options = [f"{chr(ord('A') + i)}. {option}" for i, option in enumerate(example.options)]
    parts = [f"### {escape(example.case_id)} ({example.why})"]
    parts.append(fence("\n".join([example.question, *options])))
    parts.append(f"Gold answer: {escape(example.gold or 'none')}.")
    for output in example.outputs:
        result = {None: "not scored", True: "right", False: "wrong"}[output.correct]
        read = f", read: {escape(output.extracted)}" if output.extracted else ""
        length = "" if output.num_tokens is None else f"; {count_text(output.num_tokens, 'token')}"
        parts.append(f"{output.title}: {result} ({output.status}{read}{length})")
        parts.append(fence(output.output))
    return parts


def _training(content: ReportContent) -> list[str]:
    if not content.training:
        return []
    rows = [
        (
            str(row.step),
            f"{row.loss:.4f}",
            "" if row.held_out_loss is None else f"{row.held_out_loss:.4f}",
        )
        for row in content.training
    ]
    return ["## Training", table(("Step", "Training loss", "Held-out loss"), rows)]


def _data(content: ReportContent) -> list[str]:
    account = content.account
    if account is None:
        return []
    rows = [(name, f"{count:,}") for name, count in account.rows]
    rows += [(f"rejected: {reason}", f"{count:,}") for reason, count in account.reasons]
    return [
        "## Data",
        bullets(escape(sentence) for sentence in account.proof),
        table(("Rows", "Number"), rows) if rows else "",
        "**The sum of the rows does not add up.**" if account.is_balanced is False else "",
    ]


def _provenance(content: ReportContent) -> list[str]:
    if not content.provenance:
        return []
    return ["## Provenance", table(("What", "Value"), content.provenance)]


def escape(text: str) -> str:
    """Text of a case or machine on one line, with nothing that Markdown or HTML would read."""
    return _SPECIAL.sub(r"\\\1", " ".join(text.split()))


def fence(text: str) -> str:
    """Text in a fence longer than any run of backticks in it."""
    longest = max((len(run) for run in re.findall(r"`+", text)), default=0)
    marks = "`" * max(3, longest + 1)
    return f"{marks}text\n{text.strip()}\n{marks}"


def bullets(sentences: Iterable[str]) -> str:
    """Sentences as a list."""
    return "\n".join(f"- {sentence}" for sentence in sentences)


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Cells as a table, escaped."""
    lines = [
        [escape(name) for name in head],
        ["---"] * len(head),
        *([escape(cell) for cell in row] for row in rows),
    ]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)

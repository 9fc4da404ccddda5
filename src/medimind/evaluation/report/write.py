"""Report files from an evaluation."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from typing import Any

import jinja2

from medimind.evaluation.compare import ResultComparison
from medimind.evaluation.evaluation import Evaluation, Example, jsonable
from medimind.evaluation.evidence import NO_EVIDENCE, Evidence
from medimind.evaluation.records import unwritable
from medimind.evaluation.report.charts import draw_charts
from medimind.evaluation.report.compared import compared_content
from medimind.evaluation.report.content import ReportContent, report_content
from medimind.evaluation.report.markdown import markdown_report
from medimind.evaluation.report.model_card import model_card, model_index
from medimind.evaluation.report.views import STATUS_TITLES, example_anchor
from medimind.evaluation.results import ResultSet
from medimind.tracking.run_folder import write_atomically

_REPORT_VERSION = 2


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where the report lies; ``card`` is a model card, which only the report of a run has."""

    html: Path
    json: Path
    markdown: Path
    card: Path | None = None


def write_report(
    folder: Path,
    evaluation: Evaluation,
    *,
    curves: Sequence[Mapping[str, Any]],
    provenance: Mapping[str, Any],
    data_summary: Mapping[str, Any],
    evidence: Evidence = NO_EVIDENCE,
) -> ReportFiles:
    """``report.html``, ``report.json``, ``report.md`` and ``model_card.md`` in a run folder.

    The page needs nothing but itself: no script, no font, no picture from elsewhere. Text of
    models and cases is escaped. The same arguments give the same bytes.

    Args:
        folder: The run folder.
        evaluation: The before/after comparison.
        curves: Rows of ``metrics.jsonl``.
        provenance: Versions, machine, git commit and seed.
        data_summary: Figures of the data stage; ``train_ids`` in it lets the report prove that no
            held-out case was trained on.
        evidence: What was measured beside the comparison.

    Raises:
        EvaluationError: If the files cannot be written.
    """
    content = report_content(
        evaluation,
        curves=curves,
        provenance=provenance,
        data_summary=data_summary,
        evidence=evidence,
    )
    figures = {
        **evaluation.to_dict(),
        "evidence": jsonable(dataclasses.asdict(evidence)),
        "model_index": jsonable(model_index(evaluation, evidence)),
    }
    card = model_card(evaluation, content, evidence=evidence, data_summary=data_summary)
    return _write(folder, content, evaluation.examples, figures, curves=curves, card=card)


def write_comparison_report(
    folder: Path,
    compared: ResultComparison,
    *,
    sets: Sequence[ResultSet],
    provenance: Mapping[str, Any] | None = None,
    evidence: Evidence = NO_EVIDENCE,
) -> ReportFiles:
    """``report.html``, ``report.json`` and ``report.md`` of compared result files.

    Args:
        folder: Where they go; made where it is missing.
        compared: The comparison.
        sets: What was compared, in the same order.
        provenance: Versions and machine.
        evidence: What was measured beside the comparison.

    Raises:
        EvaluationError: If the files cannot be written.
    """
    content, examples = compared_content(
        compared, sets=sets, provenance=provenance or {}, evidence=evidence
    )
    figures = {**compared.to_dict(), "evidence": jsonable(dataclasses.asdict(evidence))}
    return _write(folder, content, examples, figures)


def _write(
    folder: Path,
    content: ReportContent,
    examples: Sequence[Example],
    figures: Mapping[str, Any],
    *,
    curves: Sequence[Mapping[str, Any]] = (),
    card: str | None = None,
) -> ReportFiles:
    paths = ReportFiles(
        folder / "report.html",
        folder / "report.json",
        folder / "report.md",
        folder / "model_card.md" if card is not None else None,
    )
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(paths.html, printable(html_report(content, examples, curves=curves)))
        write_atomically(paths.json, printable(json_report(content, figures)))
        write_atomically(paths.markdown, printable(markdown_report(content, examples)))
        if paths.card is not None and card is not None:
            write_atomically(paths.card, printable(card))
    except OSError as error:
        raise unwritable("the report", error, where=folder) from None
    return paths


def json_report(content: ReportContent, figures: Mapping[str, Any]) -> str:
    """The figures, and the text of the report under ``report``."""
    text = jsonable(dataclasses.asdict(content))
    for section in text["sections"]:
        del section["charts"]  # drawn from figures that are there
    value = {"version": _REPORT_VERSION, **figures, "report": text}
    return json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def html_report(
    content: ReportContent,
    examples: Sequence[Example],
    *,
    curves: Sequence[Mapping[str, Any]] = (),
) -> str:
    """The self-contained page."""
    template = _environment().get_template("page.html.j2")
    return template.render(
        content=content,
        style=_resource("style.css"),
        status_titles=STATUS_TITLES,
        charts=draw_charts(curves) if curves else (),
        examples=[(example_anchor(index), example) for index, example in enumerate(examples)],
    )


@cache
def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FunctionLoader(_resource),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["letter"] = lambda index: chr(ord("A") + index)
    return environment


def printable(text: str) -> str:
    """The text without characters that HTML forbids; they become the replacement character.

    Among them are the control characters that a terminal obeys, and surrogates, which UTF-8 cannot
    hold.
    """
    return "".join(
        character
        if character in "\n\t" or _is_allowed(ord(character))
        else "\N{REPLACEMENT CHARACTER}"
        for character in text.replace("\r\n", "\n").replace("\r", "\n")
    )


def _is_allowed(code: int) -> bool:
    is_control = code < 0x20 or 0x7F <= code < 0xA0
    is_surrogate = 0xD800 <= code < 0xE000
    is_noncharacter = code & 0xFFFE == 0xFFFE or 0xFDD0 <= code < 0xFDF0
    return not (is_control or is_surrogate or is_noncharacter)


def _resource(name: str) -> str:
    return files("medimind.evaluation.report").joinpath(name).read_text(encoding="utf-8")

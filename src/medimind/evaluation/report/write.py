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

from medimind.errors import EvaluationError
from medimind.evaluation.evaluation import Evaluation, jsonable
from medimind.evaluation.report.charts import draw_charts
from medimind.evaluation.report.content import (
    STATUS_TITLES,
    ReportContent,
    example_anchor,
    report_content,
)
from medimind.evaluation.report.markdown import markdown_report
from medimind.tracking.run_folder import write_atomically

_REPORT_VERSION = 1


@dataclass(frozen=True, slots=True)
class ReportFiles:
    """Where the report lies."""

    html: Path
    json: Path
    markdown: Path


def write_report(
    folder: Path,
    evaluation: Evaluation,
    *,
    curves: Sequence[Mapping[str, Any]],
    provenance: Mapping[str, Any],
    data_summary: Mapping[str, Any],
) -> ReportFiles:
    """``report.html``, ``report.json`` and ``report.md`` in a run folder, with the same figures.

    The page needs nothing but itself: no script, no font, no picture from elsewhere. Text of
    models and cases is escaped. The same arguments give the same bytes.

    Args:
        folder: The run folder.
        evaluation: The before/after comparison.
        curves: Rows of ``metrics.jsonl``.
        provenance: Versions, machine, git commit and seed.
        data_summary: Figures of the data stage; ``train_ids`` in it lets the report prove that no
            held-out case was trained on.

    Raises:
        EvaluationError: If the files cannot be written.
    """
    content = report_content(
        evaluation, curves=curves, provenance=provenance, data_summary=data_summary
    )
    paths = ReportFiles(folder / "report.html", folder / "report.json", folder / "report.md")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(paths.html, printable(html_report(content, evaluation, curves=curves)))
        write_atomically(paths.json, printable(json_report(content, evaluation)))
        write_atomically(paths.markdown, printable(markdown_report(content, evaluation)))
    except OSError as error:
        raise EvaluationError(
            f"the report cannot be written ({error.strerror or error})", where=str(folder)
        ) from None
    return paths


def json_report(content: ReportContent, evaluation: Evaluation) -> str:
    """The evaluation's figures, and the text of the report under ``report``."""
    value = {
        "version": _REPORT_VERSION,
        **evaluation.to_dict(),
        "report": jsonable(dataclasses.asdict(content)),
    }
    return json.dumps(value, ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def html_report(
    content: ReportContent, evaluation: Evaluation, *, curves: Sequence[Mapping[str, Any]]
) -> str:
    """The self-contained page."""
    template = _environment().get_template("page.html.j2")
    return template.render(
        content=content,
        style=_resource("style.css"),
        status_titles=STATUS_TITLES,
        settings_example_rule=evaluation.settings.example_rule,
        charts=draw_charts(curves),
        examples=[
            (example_anchor(index), example) for index, example in enumerate(evaluation.examples)
        ],
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

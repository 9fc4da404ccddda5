"""HTML pages from documents: one per patient, and one of the cohort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from medimind.forecasting.document import INTENDED_USE
from medimind.forecasting.narrative.narrate import Narrative
from medimind.forecasting.records.unit_names import titled, written_unit
from medimind.forecasting.report.charts import fan_chart, histogram
from medimind.forecasting.report.interactive import SCRIPT, interactive_chart


def patient_page(document: Mapping[str, Any], narrative: Narrative) -> str:
    """One patient's page."""
    parts = []
    for part in document["codes"]:
        script, element = interactive_chart(part)
        parts.append(
            {
                "facts": part,
                "static": Markup(fan_chart(part)),
                "script": Markup(script),
                "element": Markup(element),
            }
        )
    return _render(
        "patient.html.j2",
        document=document,
        parts=parts,
        narrative=narrative,
        script=SCRIPT,
        intended_use=INTENDED_USE,
    )


def cohort_page(
    summary: Mapping[str, Any], patients: Sequence[Mapping[str, Any]], models: Mapping[str, Any]
) -> str:
    """The cohort's page: counts, codes, risks, what validation found, links to patients."""
    codes = [
        {**one, "chart": Markup(histogram(one["changes"], title="Expected change",
                                          label=titled(one["name"], one["unit"])))}
        for one in summary["codes"]
    ]  # fmt: skip
    risks = [
        {**one, "chart": Markup(histogram(one["values"], title=one["name"], label="risk in %"))}
        for one in summary["risks"]
    ]
    return _render(
        "cohort.html.j2",
        summary=summary,
        codes=codes,
        risks=risks,
        patients=patients,
        models=models,
        intended_use=INTENDED_USE,
    )


def _render(name: str, **values: Any) -> str:
    text = files("medimind.forecasting.report").joinpath(name).read_text(encoding="utf-8")
    style = files("medimind.forecasting.report").joinpath("style.css").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _number
    environment.filters["percent"] = _percent
    environment.filters["unit"] = written_unit
    return environment.from_string(text).render(style=Markup(style), **values)


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:,.{digits}g}"


def _percent(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.1 %" if value < 0.1 else f"{value:.1f} %"

"""HTML pages from documents: one per patient, and one of the cohort."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from medimind.forecasting.document import INTENDED_USE
from medimind.forecasting.forecast import CONFIRMED, LINE_STATES
from medimind.forecasting.narrative.facts import FALLING, RISING, direction
from medimind.forecasting.narrative.narrate import Narrative
from medimind.forecasting.records.table import DAYS_A_YEAR
from medimind.forecasting.records.unit_names import (
    titled,
    written_days,
    written_unit,
    written_value,
)
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
        headline=headline(document),
        narrative=narrative,
        script=SCRIPT,
        intended_use=INTENDED_USE,
    )


def cohort_page(
    summary: Mapping[str, Any], patients: Sequence[Mapping[str, Any]], models: Mapping[str, Any]
) -> str:
    """The cohort's page: counts, codes, risks, what validation found, links to patients."""
    codes = [
        {**one, "chart": Markup(histogram(one["changes"], label=titled(one["name"], one["unit"])))}
        for one in summary["codes"]
    ]
    risks = [
        {**one, "chart": Markup(histogram(one["values"], label="risk in %", starts_at_zero=True))}
        for one in summary["risks"]
    ]
    return _render(
        "cohort.html.j2",
        summary=summary,
        codes=codes,
        risks=risks,
        patients=patients,
        pages={one["patient"]: one["href"] for one in patients},
        models=models,
        intended_use=INTENDED_USE,
    )


def headline(document: Mapping[str, Any]) -> dict[str, Any]:
    """What a reader wants first: each value and risk about a year ahead."""
    values = []
    for part in document["codes"]:
        row = _about_a_year(part["forecasts"])
        last = part["history"][-1]["value"] if part["history"] else None
        course = direction(last, row["value"], part)
        low, high = row["intervals"]["90"]
        values.append(
            {
                "name": part["name"],
                "unit": written_unit(part["unit"]),
                "last": _value(last, part["code"]),
                "value": _value(row["value"], part["code"]),
                "low": _value(low, part["code"]),
                "high": _value(high, part["code"]),
                "course": _course(part, course),
                "is_worse": (course, part["worse"]) in ((RISING, "up"), (FALLING, "down")),
            }
        )
    risks = []
    for risk in document["risks"]:
        row = _about_a_year(risk["horizons"])
        said = _percent(row["by_percent"])
        if risk.get("state") == LINE_STATES[CONFIRMED]:
            said = "crossed already"
        risks.append({"name": risk["name"], "said": said})
    return {
        "measurements": values,
        "risks": risks,
        "days": _year_ahead(document["codes"], "forecasts"),
        "risk_days": _year_ahead(document["risks"], "horizons"),
    }


def _year_ahead(parts: Sequence[Mapping[str, Any]], rows: str) -> float:
    return _about_a_year(parts[0][rows])["horizon_days"] if parts else DAYS_A_YEAR


def _about_a_year(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    return min(rows, key=lambda row: abs(row["horizon_days"] - DAYS_A_YEAR))


def _course(part: Mapping[str, Any], course: str | None) -> str:
    if not part["evidence"]["is_sufficient"]:
        return "insufficient evidence"
    return course or "–"


def _value(value: float | None, code: str) -> str:
    return "–" if value is None else written_value(code, value)


def _render(name: str, **values: Any) -> str:
    text = files("medimind.forecasting.report").joinpath(name).read_text(encoding="utf-8")
    style = files("medimind.forecasting.report").joinpath("style.css").read_text(encoding="utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True)
    environment.filters["number"] = _number
    environment.filters["percent"] = _percent
    environment.filters["unit"] = written_unit
    environment.filters["ahead"] = written_days
    environment.filters["value"] = _value
    return environment.from_string(text).render(style=Markup(style), **values)


def _number(value: float | None, digits: int = 4) -> str:
    return "–" if value is None else f"{value:,.{digits}g}"


def _percent(value: float | None) -> str:
    if value is None:
        return "–"
    return "< 0.1 %" if value < 0.1 else f"{value:.1f} %"

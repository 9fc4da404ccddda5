"""A forecast in words without a model: plain sentences, every number from the document."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from medimind.forecasting.narrative.facts import direction, facts_of
from medimind.forecasting.records.unit_names import with_unit, written_days, written_value

_MOST_HORIZONS = 3


def template_narrative(document: Mapping[str, Any], *, seed: int | None = None) -> str:
    """The account; with a seed one of several wordings is drawn for each sentence."""
    draw = random.Random(seed)
    pick = (lambda *texts: texts[0]) if seed is None else (lambda *texts: draw.choice(texts))
    facts = facts_of(document)
    lines = []
    for code, part in facts.codes.items():
        sentences = [_now(part, pick)]
        last = facts.last(code)
        for row in _spaced(part["forecasts"]):
            sentences.append(_ahead(part, row, last, pick))
        if part["neighbours"] and part["neighbours"]["course"]:
            sentences.append(_similar(part, pick))
        sentences.append(_model(part, pick))
        if not part["evidence"]["is_sufficient"]:
            reasons = ", ".join(part["evidence"]["reasons"])
            sentences.append(f"Insufficient evidence: {reasons.replace(':', ',')}.")
        lines.append(" ".join(sentences))
    lines += [_risk(risk, pick) for risk in facts.risks.values()]
    return "\n".join(line for line in lines if line) + "\n"


def _spaced(rows: list[Any]) -> list[Any]:
    """A few horizons, the first and the last among them."""
    if len(rows) <= _MOST_HORIZONS:
        return rows
    step = (len(rows) - 1) / (_MOST_HORIZONS - 1)
    return [rows[round(index * step)] for index in range(_MOST_HORIZONS)]


def _now(part: Mapping[str, Any], pick: Any) -> str:
    name = part["name"]
    count = part["evidence"]["num_measurements"]
    if not part["history"]:
        return f"{name} was never measured."
    last = with_unit(written_value(part["code"], part["history"][-1]["value"]), part["unit"])
    measurements = "1 measurement" if count == 1 else f"{count} measurements"
    trend = direction(part["history"][0]["value"], part["history"][-1]["value"], part)
    so_far = f"; {name} has been {trend} so far." if count > 1 else "."
    return pick(
        f"{name} was last {last} ({measurements}){so_far}",
        f"The latest {name} was {last}, after {measurements}{so_far}",
        f"{name} is currently {last} with {measurements} on record{so_far}",
    )


def _ahead(part: Mapping[str, Any], row: Mapping[str, Any], last: float | None, pick: Any) -> str:
    days = row["horizon_days"]
    value = with_unit(written_value(part["code"], row["value"]), part["unit"])
    low, high = (written_value(part["code"], one) for one in row["intervals"]["90"])
    way = direction(last, row["value"], part)
    said = "" if way is None else f", {way}"
    when = pick(written_days(days), _days(days))
    return pick(
        f"In {when}, {value} is expected (90 % interval {low} to {high}){said}.",
        f"{part['name']} is forecast at {value} in {when}, 90 % interval {low} to {high}{said}.",
        f"After {when} the forecast is {value}{said}, with a 90 % range between {low} and {high}.",
    )


def _similar(part: Mapping[str, Any], pick: Any) -> str:
    found = part["neighbours"]
    row = found["course"][-1]
    low, middle, high = (written_value(part["code"], one) for one in row["quartiles"])
    when = written_days(row["horizon_days"])
    return pick(
        f"Among {found['num_patients']} similar patients the median in {when} is {middle}.",
        f"In {when}, similar patients had quartiles {low} to {high}.",
    )


def _model(part: Mapping[str, Any], pick: Any) -> str:
    model = part["model"]
    skill = model["skill_percent"] or 0.0
    patients = f"{model['calibration_patients']} patients"
    calibrated = f"Its intervals are calibrated on {patients}."
    if skill <= 0:
        return f"Model: {model['method']}. {calibrated}"
    return pick(
        f"Model: {model['method']}; its error on other patients is {skill:.3g} % less than "
        f"with the last value carried forward. {calibrated}",
        f"{part['name']} is forecast by {model['method']}, with a skill of {skill:.3g} %. "
        f"{calibrated}",
    )


def _risk(risk: Mapping[str, Any], pick: Any) -> str:
    if risk.get("state") == "has crossed the line":
        return f"{risk['name']}: the line has been crossed already."
    rows = [row for row in risk["horizons"] if row["by_percent"] is not None]
    if not rows:
        return f"{risk['name']}: no risk is given."
    row = rows[-1]
    when = written_days(row["horizon_days"])
    by = _percent(row["by_percent"])
    text = pick(
        f"The risk of {risk['name']} within {when} is {by} %.",
        f"Within {when}, the probability of {risk['name']} is {by} %.",
        f"The risk of {risk['name']} by {when} is {by} %.",
        f"For {risk['name']} the risk within {when} is {by} %.",
    )
    if row["at_percent"] is not None:
        at = _percent(row["at_percent"])
        text += f" The risk of lying beyond {risk['name']} at {when} is {at} %."
    if not risk["calibration"].get("is_calibrated", True):
        text += " This risk is simulated, not calibrated."
    return text


def _percent(value: float) -> str:
    return f"{value:.1f}" if value >= 0.1 else "less than 0.1"


def _days(days: float) -> str:
    return f"{days:g} days"

from __future__ import annotations

from typing import Any

import pytest

from medimind.engines.engine import Reply
from medimind.forecasting.narrative.narrate import narrate, shortened
from medimind.forecasting.narrative.template import template_narrative
from medimind.forecasting.narrative.verify import verify
from medimind.forecasting.records.unit_names import written_unit

UNIT = "mL/min/{1.73_m2}"


def forecast(days: float, value: float, low: float, high: float) -> dict[str, Any]:
    return {
        "horizon_days": days,
        "time_days": 400 + days,
        "value": value,
        "intervals": {"50": [low + 3, high - 3], "80": [low + 1, high - 1], "90": [low, high]},
        "evidence": "sufficient",
    }


def document() -> dict[str, Any]:
    return {
        "version": 1,
        "patient": "A 17",
        "last_visit_days": 400.0,
        "codes": [
            {
                "code": "98979-8",
                "name": "eGFR",
                "unit": UNIT,
                "worse": "down",
                "history": [
                    {"time_days": 0.0, "value": 75.0},
                    {"time_days": 400.0, "value": 68.2},
                ],
                "evidence": {"is_sufficient": True, "reasons": [], "num_measurements": 2},
                "forecasts": [forecast(182, 66.4, 58.1, 73.0), forecast(365, 63.9, 54.2, 72.5)],
                "lines": [{"name": "eGFR < 60", "value": 60.0, "side": "below"}],
                "model": {
                    "method": "stack",
                    "error": 3.1,
                    "error_last_value": 3.5,
                    "skill_percent": 11.4,
                    "num_patients": 500,
                    "calibration_patients": 480,
                    "calibration_errors": 9000,
                },
                "neighbours": {
                    "num_patients": 40,
                    "course": [{"horizon_days": 365.0, "quartiles": [58.0, 63.0, 69.0]}],
                },
            }
        ],
        "risks": [
            {
                "name": "eGFR < 60",
                "kind": "line",
                "code": "98979-8",
                "value": 60.0,
                "unit": UNIT,
                "side": "below",
                "confirm_days": 90.0,
                "state": "not beyond the line",
                "calibration": {"is_calibrated": True, "num_rows": 900, "num_events": 200},
                "horizons": [
                    {"horizon_days": 182.0, "at_percent": 11.2, "by_percent": 4.5},
                    {"horizon_days": 365.0, "at_percent": 23.6, "by_percent": 14.8},
                ],
            }
        ],
    }


@pytest.mark.parametrize(
    "text",
    [
        "eGFR falls from 68.2 to 66.4 mL/min/1.73 m² in 6 months.",
        "In 182 days 66.4 and in 365 days 63.9 is expected for eGFR.",
        "eGFR: 66.4 in 182 days and 63.9 in 365 days; it is falling.",
        "The 90 % interval of eGFR in one year is 54.2 to 72.5, for 63.9 expected.",
        "eGFR worsens to 64 within a year: in 365 days 64 is expected.",
        "The risk of eGFR < 60 within 365 days is 14.8 %, of lying there at 365 days 23.6 %.",
        "The risk of falling below the line, eGFR < 60, is 15% by 1 year.",
        "Among 40 similar patients the median eGFR in 365 days is 63.",
        "Intervals of eGFR are calibrated on 480 patients; its error is 3.1.",
        "A crossing of eGFR < 60 is confirmed by values 90 days apart.",
        "Patient A 17 has 2 measurements of eGFR.",
        "eGFR: 66.4 mL/min/{1.73_m2} in 182 days, 63.9 mL/min/1.73 m² in 365 days.",
        "In 182 days 66.4 ml/min/1.73m2 is expected for eGFR.",
    ],
)
def test_true_texts_pass(text: str) -> None:
    verdict = verify(text, document())
    assert verdict.passes, verdict.problems
    assert verdict.num_traced == verdict.num_numbers > 0


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("eGFR falls from 68.2 to 66.9 in 182 days.", "forecast is 66.4"),
        ("eGFR falls from 67.2 to 66.4 in 182 days.", "last value is 68.2"),
        ("In 182 days 63.9 and in 365 days 66.4 is expected for eGFR.", "forecast is 66.4"),
        ("eGFR falls to 66.4 mmol/L in 182 days.", "unit of eGFR"),
        ("eGFR falls to 66.4 µmol/L in 182 days.", "unit of eGFR is mL/min/1.73 m²"),
        ("eGFR rises to 66.4 in 182 days.", "document says falling"),
        ("eGFR improves to 66.4 in 182 days.", "document says falling"),
        ("eGFR stays at 66.4 in 182 days.", "document says falling"),
        ("eGFR will not fall; in 182 days 66.4 is expected.", "denied direction"),
        ("eGFR is not falling in 182 days.", "denied direction"),
        ("In 700 days eGFR is 63.9.", "no forecast has this horizon"),
        ("Albumin falls to 66.4 in 182 days.", "no such measurement"),
        ("eGFR falls to 66.4 in 182 days because of diabetes.", "not in the document"),
        ("Start lisinopril: eGFR falls to 66.4 in 182 days.", "not in the document"),
        ("eGFR halves within 365 days.", "no number of the document"),
        ("The 80 % interval of eGFR in 365 days is 54.2 to 72.5.", "another interval"),
        ("eGFR lies between 54.2 and 72.5 in 365 days.", "no level"),
        ("The 95 % interval of eGFR in 365 days is 54.2 to 72.5.", "no interval has this level"),
        ("The risk of eGFR < 60 within 365 days is 23.6 %.", "the risk is 14.8"),
        ("The risk of eGFR < 60 at 365 days is 14.8 %.", "the risk is 23.6"),
        ("The risk of eGFR < 60 within 182 days is 14.8 %.", "the risk is 4.5"),
        ("The risk of rising above the line, eGFR < 60, is 14.8 % by 365 days.", "other side"),
        ("eGFR was measured in 900 patients.", "count is 500"),
        ("eGFR falls below the line of 30 in 365 days.", "no line"),
        ("Three of the similar patients had eGFR 63 in 365 days.", "median of similar"),
    ],
)
def test_false_texts_are_refused(text: str, reason: str) -> None:
    verdict = verify(text, document())
    assert not verdict.passes
    assert any(reason in problem.reason for problem in verdict.problems), verdict.problems


def test_every_wording_of_the_template_passes() -> None:
    for seed in (None, *range(40)):
        verdict = verify(template_narrative(document(), seed=seed), document())
        assert verdict.passes, verdict.problems


class Writer:
    """An engine that says what it is told."""

    def __init__(self, *texts: str) -> None:
        self.texts = list(texts)
        self.asked: list[str] = []

    def answer(self, requests: Any, *, decoding: Any, **_: Any) -> list[Reply]:
        self.asked.append(requests[0].messages[-1].content)
        return [Reply(self.texts.pop(0), "stop", 1, 1, 0.0)]


def test_a_models_text_passes_only_if_true_and_sees_no_history() -> None:
    true = "<think>68.2 is 1 less</think>\n**eGFR** falls to 66.4 in 182 days."
    writer = Writer("eGFR falls to 12 in 182 days.", true)
    told = narrate(document(), engine=writer)  # type: ignore[arg-type]
    assert (told.source, told.text) == ("model", "eGFR falls to 66.4 in 182 days.")
    assert told.refused[0][0].text == "12"
    assert "75.0" not in writer.asked[0]
    assert "A 17" not in str(shortened(document()))


def test_the_template_stands_in_and_says_why() -> None:
    told = narrate(document(), engine=Writer("12.", "13.", "no figure"), tries=3)  # type: ignore[arg-type]
    assert told.source == "template"
    assert len(told.refused) == 3
    assert told.refused[2][0].reason == "it holds no figure"


@pytest.mark.parametrize("unit", ["L", "s", "AU", "mL/min", "{score}", "10*3/uL", "ug/L", "1"])
def test_any_unit_of_a_document_is_read_back_in_both_forms(unit: str) -> None:
    described = document()
    described["codes"][0]["unit"] = described["risks"][0]["unit"] = unit
    assert verify(template_narrative(described), described).passes
    for shown in ("" if unit == "1" else unit, written_unit(unit)):
        assert verify(f"In 182 days eGFR of 66.4 {shown} is expected.", described).passes
    assert not verify("In 182 days eGFR of 66.4 mmol/L is expected.", described).passes

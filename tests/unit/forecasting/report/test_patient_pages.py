from __future__ import annotations

import copy
import re
from typing import Any

from medimind.forecasting.forecast import EVIDENCE, NO_MEASUREMENT
from medimind.forecasting.narrative.narrate import narrate
from medimind.forecasting.report.charts import fan_chart
from medimind.forecasting.report.page import headline, patient_page

UNIT = "mL/min/{1.73_m2}"


def document() -> dict[str, Any]:
    rows = [
        {"horizon_days": days, "time_days": 400.0 + days, "value": value, "evidence": "sufficient",
         "intervals": {"50": [value - 2, value + 2], "80": [value - 4, value + 4],
                       "90": [value - 6, value + 6]}}
        for days, value in ((182.0, 66.4), (365.0, 62.0))
    ]  # fmt: skip
    part = {
        "code": "98979-8", "name": "eGFR", "unit": UNIT, "worse": "down",
        "history": [{"time_days": 0.0, "value": 75.0}, {"time_days": 400.0, "value": 68.2}],
        "evidence": {"is_sufficient": True, "reasons": [], "num_measurements": 2},
        "forecasts": rows,
        "lines": [{"name": "eGFR < 60", "value": 60.0, "side": "below"},
                  {"name": "eGFR < 15", "value": 15.0, "side": "below"}],
        "model": {"method": "stack", "error": 3.1, "error_last_value": 3.5, "skill_percent": 11.4,
                  "num_patients": 500, "calibration_patients": 480, "calibration_errors": 9000},
        "neighbours": None,
    }  # fmt: skip
    risk = {
        "name": "eGFR < 60", "kind": "line", "code": "98979-8", "value": 60.0, "unit": UNIT,
        "side": "below", "confirm_days": 90.0, "state": "not beyond the line",
        "calibration": {"is_calibrated": True, "num_rows": 900, "num_events": 200},
        "horizons": [{"horizon_days": 365.0, "at_percent": 23.6, "by_percent": 14.8}],
    }  # fmt: skip
    return {"version": 1, "patient": "A", "last_visit_days": 400.0, "codes": [part],
            "risks": [risk]}  # fmt: skip


def test_what_people_read_has_no_ucum_and_says_the_main_thing_first() -> None:
    made = document()
    page = patient_page(made, narrate(made))
    text = re.sub(r"<(script|svg).*?</\1>", "", page, flags=re.DOTALL)
    assert "{1.73_m2}" not in text
    assert "mL/min/1.73 m²" in text
    found = headline(made)
    (row,) = found["measurements"]
    assert (row["last"], row["value"], row["low"], row["high"]) == ("68", "62", "56", "68")
    assert (found["days"], row["course"], row["is_worse"]) == (365.0, "falling", True)
    assert found["risks"] == [{"name": "eGFR < 60", "said": "14.8 %"}]
    assert text.index("14.8 %") < text.index("In words")


def test_a_crossed_line_and_thin_evidence_are_said_in_the_headline() -> None:
    made = document()
    made["risks"][0]["state"] = "has crossed the line"
    made["risks"][0]["horizons"][0]["by_percent"] = None
    made["codes"][0]["evidence"] = {"is_sufficient": False, "reasons": [EVIDENCE[NO_MEASUREMENT]],
                                    "num_measurements": 0}  # fmt: skip
    made["codes"][0]["history"] = []
    found = headline(made)
    assert found["risks"][0]["said"] == "crossed already"
    assert found["measurements"][0]["course"] == "insufficient evidence"
    assert found["measurements"][0]["last"] == "–"
    assert "Insufficient evidence" in patient_page(made, narrate(made))


def test_a_picture_follows_the_theme_and_is_not_squeezed_by_a_far_line() -> None:
    part = document()["codes"][0]
    picture = fan_chart(part)
    assert "var(--blue, " in picture
    assert "lies below" in picture or picture.count("<use") > 0
    near = copy.deepcopy(part)
    near["lines"] = near["lines"][:1]
    heights = [_lowest_tick(fan_chart(one)) for one in (part, near)]
    assert heights[0] == heights[1]


def _lowest_tick(picture: str) -> int:
    return len(re.findall(r'id="ytick_\d+"', picture))

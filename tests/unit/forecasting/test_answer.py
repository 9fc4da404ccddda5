from __future__ import annotations

import json
from typing import Any

import pytest

from medimind.config.forecast_models import ForecastConfig, LineConfig
from medimind.errors import DataError
from medimind.forecasting.answer import forecast_patient
from medimind.forecasting.fit import fit_forecaster
from medimind.forecasting.forecaster import Forecaster
from medimind.forecasting.simulate import simulate_cohort

GFR = "mL/min/{1.73_m2}"
LINE = LineConfig(name="eGFR < 60", code="98979-8", value=60, unit=GFR, confirm_days=90)
CSV = b"""patient,time,code,value,unit
A 1,2024-01-01,98979-8,70,mL/min/1.73m2
A 1,2024-07-01,98979-8,66,mL/min/1.73m2
A 1,2024-07-01,98979-8,oops,mL/min/1.73m2
A 1,2025-01-01,98979-8,61,mL/min/1.73m2
B,2024-01-01,98979-8,95,mL/min/1.73m2
"""


@pytest.fixture(scope="module")
def forecaster() -> Forecaster:
    config = ForecastConfig(
        experts=("last_value", "patient_mean", "linear"), trees=None, num_folds=2, lines=(LINE,)
    )
    return fit_forecaster(simulate_cohort(60, seed=4).records, config)


def observation(day: str, value: float) -> dict[str, Any]:
    return {
        "resourceType": "Observation", "status": "final",
        "code": {"coding": [{"system": "http://loinc.org", "code": "98979-8"}]},
        "subject": {"reference": "Patient/A 1"}, "effectiveDateTime": day,
        "valueQuantity": {"value": value, "code": GFR, "system": "http://unitsofmeasure.org"},
    }  # fmt: skip


def test_an_answer_can_be_sent_as_it_is(forecaster: Forecaster) -> None:
    answer = forecast_patient(forecaster, CSV, kind="csv", patient="A 1", horizons_days=(182,))
    assert json.loads(json.dumps(answer, allow_nan=False)) == answer
    part = answer["document"]["codes"][0]
    assert (part["unit"], part["display_unit"]) == (GFR, "mL/min/1.73 m²")
    assert [row["horizon_days"] for row in part["forecasts"]] == [182]
    assert answer["document"]["risks"][0]["name"] == "eGFR < 60"
    assert answer["narrative"]["source"] == "template"
    assert "61 mL/min/1.73 m²" in answer["narrative"]["text"]
    counts = answer["validation"]
    assert counts["rows_in"] == counts["rows_kept"] + sum(counts["left_out"].values()) == 5
    (finding,) = [one for one in answer["findings"] if one["left_out"]]
    assert (finding["row"], finding["patient"]) == (3, "A 1")


def test_fhir_and_csv_say_the_same(forecaster: Forecaster) -> None:
    days = (("2024-01-01", 70.0), ("2024-07-01", 66.0), ("2025-01-01", 61.0))
    resources = [observation(day, value) for day, value in days]
    bundle = {"resourceType": "Bundle", "type": "collection",
              "entry": [{"resource": one} for one in resources]}  # fmt: skip
    lines = "\n".join(json.dumps(one) for one in resources).encode()
    expected = forecast_patient(forecaster, CSV, kind="csv", patient="A 1")["document"]
    for kind, content in (("fhir", json.dumps(bundle).encode()), ("ndjson", lines)):
        assert forecast_patient(forecaster, content, kind=kind)["document"] == expected


@pytest.mark.parametrize(
    ("content", "kind", "patient", "says"),
    [
        (CSV, "csv", None, "2 patients.*Name one of them: A 1, B"),
        (CSV, "csv", "C", "no patient 'C'"),
        (CSV, "xls", "A 1", "no kind of records"),
        (b"", "csv", None, "empty"),
        (b"patient,time,code,value,unit\n", "csv", None, "nothing in the file can be used"),
        (b"a,b\n1,2\n", "csv", None, "no column patient"),
        (b"[]", "fhir", None, "no FHIR"),
        (b"\xff\xfe", "fhir", None, "cannot be read"),
        (b"[" * 100_000, "fhir", None, "not JSON"),
        (b"{", "ndjson", None, "nothing in the file can be used"),
    ],
)
def test_what_cannot_be_forecast_is_said(
    forecaster: Forecaster, content: bytes, kind: str, patient: str | None, says: str
) -> None:
    with pytest.raises(DataError, match=says):
        forecast_patient(forecaster, content, kind=kind, patient=patient)


def test_a_code_in_another_unit_than_was_learned_is_refused(cohort: Any) -> None:
    config = ForecastConfig(experts=("last_value", "patient_mean"), trees=None, num_folds=2)
    known = fit_forecaster(cohort(40), config)
    rows = "patient,time,code,value,unit\nA,0,marker,50,{unit}\nA,90,marker,51,{unit}\n"
    for unit in ("mmol/L", "MMOL/L"):
        answer = forecast_patient(known, rows.format(unit=unit).encode(), kind="csv")
        assert answer["document"]["codes"][0]["unit"] == "mmol/L"
    with pytest.raises(DataError, match=r"marker is in umol/L.*learned it in mmol/L"):
        forecast_patient(known, rows.format(unit="umol/L").encode(), kind="csv")

"""``/api/forecast``: a patient's file in; the forecast, what was found, and an account out."""

from __future__ import annotations

import asyncio
import json

import numpy as np
import pytest
from serving_stub import StubBackend, ask, client, make_app, make_serving

pytest.importorskip("pyarrow", reason="the extra 'forecast' is not installed")
pytest.importorskip("fhir.resources", reason="the extra 'forecast' is not installed")

from medimind.config.forecast_models import ForecastConfig
from medimind.errors import EngineError
from medimind.forecasting.fit import fit_forecaster
from medimind.forecasting.narrative.verify import verify
from medimind.forecasting.simulate import simulate_cohort
from medimind.forecasting.store import save_forecaster
from medimind.prompts.live import Said
from medimind.serving.admission import Admission
from medimind.serving.audit import AuditLog, check_log, hash_bytes
from medimind.serving.forecast_desk import open_desk
from medimind.serving.forecast_process import ForecastProcess
from medimind.serving.forecast_replies import ForecastReply
from medimind.serving.forecast_worker import _answer
from medimind.serving.limits import Limits
from medimind.serving.start import ServeOptions
from medimind.serving.start import make_serving as serving_of

HEADER = "patient,time,code,value,unit\n"
GFR = "98979-8"
ROWS = "".join(
    f"{{name}},{day},{GFR},{value},mL/min/{{{{1.73_m2}}}}\n"
    for day, value in (("2023-01-10", 71), ("2023-07-12", 66), ("2024-02-01", 60))
)
ONE = (HEADER + ROWS.format(name="A17")).encode()
TWO = (HEADER + ROWS.format(name="A17") + ROWS.format(name="B 2")).encode()


def observation(day, value):
    return {
        "resourceType": "Observation",
        "status": "final",
        "subject": {"reference": "Patient/A17"},
        "code": {"coding": [{"system": "http://loinc.org", "code": GFR}]},
        "effectiveDateTime": day,
        "valueQuantity": {"value": value, "unit": "mL/min/{1.73_m2}"},
    }


FHIR = [observation("2023-01-10", 71), observation("2023-07-12", 66), observation("2024-02-01", 60)]
BUNDLE = {"resourceType": "Bundle", "type": "collection"}
BUNDLE["entry"] = [{"resource": one} for one in FHIR]
NDJSON = "\n".join(json.dumps(one) for one in FHIR)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("fitted") / "model"
    config = ForecastConfig(
        experts=("population_slope",), trees=None, num_folds=2, num_paths=16,
        horizons_days=(182.0, 365.0),
    )  # fmt: skip
    save_forecaster(fit_forecaster(simulate_cohort(60, seed=1).records, config), path)
    return path


@pytest.fixture(scope="module")
def desk(folder):
    return open_desk(folder, mapping=None)


def asked(desk, content, horizons=()):
    return _answer(desk, content, {"horizons": list(horizons)})


def test_through_the_server(folder, tmp_path):
    log = tmp_path / "audit.jsonl"

    async def go():
        process = ForecastProcess(folder, mapping=None, limits=Limits())
        audit = AuditLog(log)
        serving = make_serving(forecaster=process, audit=audit)
        serving.metrics.watch_forecaster(process)
        app = make_app(serving)
        await process.start()
        try:
            async with client(app) as http:
                facts = (await http.get("/api/forecast")).json()
                about = (await http.get("/api/about")).json()
                made = await http.post("/api/forecast?horizon=100", content=ONE)
                wrong = await http.post("/api/forecast", content=b"a,b\n1,2\n")
                return facts, about, made, wrong, (await http.get("/metrics")).text
        finally:
            await process.close()
            audit.close()

    facts, about, made, wrong, metrics = asyncio.run(go())
    assert [one["code"] for one in facts["codes"]] == [GFR, "4548-4"]
    assert (facts["horizons_days"], facts["ready"]) == ([182.0, 365.0], True)
    assert about["forecast"] is True
    reply = ForecastReply.model_validate_json(made.content)
    document = reply.patients[0].document
    assert document.patient == "A17"
    assert [row.horizon_days for row in document.codes[0].forecasts] == [100.0]
    assert (wrong.status_code, wrong.json()["error"]["code"]) == (400, "invalid_records")
    assert "no column patient" in wrong.json()["error"]["message"]
    assert check_log(log)[1] == 2
    first, second = map(json.loads, log.read_text().splitlines())
    assert (first["who"], first["outcome"]) == ("owner", "forecast")
    assert first["records_sha256"] == hash_bytes(ONE)
    assert first["reply_sha256"] == hash_bytes(made.content)
    assert second["outcome"] == "invalid_records"
    assert "A17" not in log.read_text()
    assert 'medimind_forecasts_total{outcome="forecast"} 1.0' in metrics
    assert "medimind_forecaster_ready 1.0" in metrics
    assert "A17" not in metrics


@pytest.mark.parametrize("content", [ONE, json.dumps(BUNDLE).encode(), NDJSON.encode()])
def test_every_form_gives_the_same_forecast(desk, content):
    status, text = asked(desk, content)
    assert status == 200
    reply = ForecastReply.model_validate_json(text)
    assert reply.model_dump(exclude_unset=True, mode="json") == json.loads(
        text
    )  # no field undescribed
    assert (reply.validation.rows_in, reply.validation.rows_kept) == (3, 3)
    one = reply.patients[0]
    assert (one.first_day, reply.unused_codes) == ("2023-01-10", [])
    code, never = one.document.codes
    assert [(row.time_days, row.value) for row in code.history] == [
        (0.0, 71.0), (183.0, 66.0), (387.0, 60.0),
    ]  # fmt: skip
    assert [row.horizon_days for row in code.forecasts] == [182.0, 365.0]
    for row in code.forecasts:
        low, high = row.intervals["90"]
        assert low is not None
        assert high is not None
        assert row.value is not None
        assert low <= row.value <= high
    assert (never.history, never.evidence.is_sufficient) == ([], False)
    assert verify(one.narrative.text, json.loads(text)["patients"][0]["document"]).passes
    assert "60" in one.narrative.text


def test_several_patients_get_a_forecast_each_and_a_cohort_none(desk):
    both = desk.forecast(TWO, horizons=())
    assert [one["document"]["patient"] for one in both["patients"]] == ["A17", "B 2"]
    cohort = HEADER + "".join(ROWS.format(name=f"P{i}") for i in range(21))
    status, text = asked(desk, cohort.encode())
    assert (status, json.loads(text)["code"]) == (413, "too_many_patients")
    assert "forecast predict" in json.loads(text)["message"]


def test_findings_are_told_with_row_and_remedy(desk):
    rows = f"A17,2023-09-01,{GFR},6600,mL/min/{{1.73_m2}}\nA17,2023-10-01,my-own,1,mg\n"
    reply = desk.forecast(ONE + rows.encode(), horizons=())
    ForecastReply.model_validate(reply)
    finding = reply["findings"][0]
    assert (finding["row"], finding["code"], finding["left_out"]) == (4, GFR, True)
    assert "physiology" in finding["found"]
    assert "where" not in finding
    assert reply["validation"]["rows_in"] == 5
    assert reply["unused_codes"] == ["my-own"]


def test_the_example_is_forecast_without_a_finding(desk):
    example = desk.facts()["example"]
    reply = desk.forecast(example.encode(), horizons=())
    assert (reply["findings"], reply["unused_codes"]) == ([], [])
    assert all(
        one["evidence"]["is_sufficient"] for one in reply["patients"][0]["document"]["codes"]
    )


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "empty"),
        (b"  \n ", "empty"),
        (b"a,b\n1,2\n", "--forecast-input"),
        (HEADER.encode(), "no measurement"),
        (HEADER.encode() + b"Smith,1,98979-8,3,mg\n", "not measured in this unit"),
        (b"{" * 100, "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'{"resourceType": "Bundle"}', "no measurement"),
        (b'{"a": 1}', "no FHIR resource"),
        (b"[1, 2]", "no FHIR resource"),
        (b"PAR1" + bytes(100), "no text"),
        (b"PK\x03\x04" + bytes(100), "no text"),
        (b"\xff\xfe\x00\x01", "cannot be read"),
        (b"\x00" * 50, ""),
        (b"patient,patient\nx,y\n", "twice"),
    ],
)
def test_a_file_that_is_none_is_refused_with_the_reason(desk, content, told):
    status, text = asked(desk, content)
    problem = json.loads(text)
    assert (status, problem["code"]) == (400, "invalid_records"), problem
    assert told in problem["message"]
    assert "Smith" not in problem["message"]


def test_a_bug_is_told_without_what_it_says(desk, monkeypatch):
    def fail(*_, **__):
        raise ZeroDivisionError("Mrs Smith")

    monkeypatch.setattr("medimind.forecasting.answer.predict", fail)
    status, text = asked(desk, ONE)
    assert (status, json.loads(text)["code"]) == (500, "bug")
    assert b"Smith" not in text


def test_an_account_that_cannot_be_traced_is_left_out_and_the_forecast_stays(desk, monkeypatch):
    monkeypatch.setattr(
        "medimind.forecasting.narrative.narrate.template_narrative", lambda _: "eGFR was last 7.\n"
    )
    patient = desk.forecast(ONE, horizons=())["patients"][0]
    assert patient["document"]["codes"][0]["history"]
    assert (patient["narrative"]["refused"], "7" in patient["narrative"]["text"]) == (1, False)


def test_a_mapping_tells_what_columns_mean(folder, tmp_path):
    mapping = tmp_path / "wide.yaml"
    mapping.write_text(
        f"patient: id\ntime: day\nvalues:\n  gfr: {{code: '{GFR}', unit: 'mL/min/{{1.73_m2}}'}}\n"
    )
    desk = open_desk(folder, mapping=mapping)
    patient = desk.forecast(b"id;day;gfr\nA;0;70\nA;180;65\n", horizons=())["patients"][0]
    assert [one["value"] for one in patient["document"]["codes"][0]["history"]] == [70.0, 65.0]
    assert patient["first_day"] is None
    assert desk.facts()["example"] is None  # it would have the default columns


def test_a_forecaster_without_a_usable_example_starts_all_the_same(folder, monkeypatch):
    monkeypatch.setattr("medimind.serving.forecast_desk.example_of", lambda _: HEADER)
    desk = open_desk(folder, mapping=None)
    assert desk.facts()["example"] is None
    assert desk.forecast(ONE, horizons=())["patients"]


class Canned:
    """A forecaster's process that has this reply."""

    def __init__(self, reply):
        self.is_ready, self.admission = True, Admission(Limits())
        self._reply = json.dumps(reply).encode()

    async def forecast(self, records, *, horizons):
        return self._reply


@pytest.mark.parametrize(
    ("said", "source", "refused", "asked_for"),
    [
        (["eGFR was last 60 mL/min/1.73 m²."], "model", 0, 1),
        (["eGFR was last 61 mL/min/1.73 m²."], "template", 3, 3),
        (["All is well."], "template", 3, 3),  # without a figure it is no account
    ],
)
def test_the_models_account_stands_only_where_every_claim_is_traced(
    desk, said, source, refused, asked_for
):
    backend = StubBackend([Said("thinking", "99 mg?"), *(Said("answer", one) for one in said)])
    reply = desk.forecast(ONE, horizons=())
    serving = make_serving(backend, forecaster=Canned(reply))
    made = ask(make_app(serving), "POST", "/api/forecast?account=model", content=ONE)
    narrative = ForecastReply.model_validate_json(made.content).patients[0].narrative
    assert (narrative.source, narrative.refused) == (source, refused)
    assert narrative.text == (said[0] if source == "model" else _template(reply))
    assert len(backend.asked) == asked_for
    assert {one.variant for one in backend.asked} == {"tuned"}
    assert [one.seed for one in backend.asked] == list(range(asked_for))
    assert serving.admission.num_served == 0
    assert "A17" not in backend.asked[0].messages[1][1]  # figures only


def _template(reply):
    return reply["patients"][0]["narrative"]["text"]


def test_without_an_engine_no_model_writes_and_the_template_does(desk):
    backend = StubBackend()
    backend.is_ready = False
    app = make_app(make_serving(backend, forecaster=Canned(desk.forecast(ONE, horizons=()))))
    assert ask(app, "POST", "/api/forecast?account=model", content=ONE).status_code == 503
    assert ask(app, "POST", "/api/forecast", content=ONE).status_code == 200


def test_without_a_forecaster_it_says_so():
    app = make_app(make_serving())
    for method in ("GET", "POST"):
        response = ask(app, method, "/api/forecast")
        assert response.status_code == 404
        assert "--forecaster" in response.json()["error"]["message"]
    assert ask(app, "GET", "/api/about").json()["forecast"] is False


@pytest.mark.parametrize(
    "query", ["horizon=-1", "horizon=x", "horizon=0", "horizon=nan", "horizon=1e9"]
)
def test_queries_are_bounded(query):
    response = ask(make_app(make_serving()), "POST", f"/api/forecast?{query}", content=ONE)
    assert response.status_code == 400
    assert response.json()["error"]["param"].startswith(query.split("=")[0])


def test_what_is_no_forecaster_is_told_at_the_start(tmp_path, smollm2_gguf):
    serving = serving_of(ServeOptions(model=str(smollm2_gguf), forecaster=tmp_path))
    assert serving.forecaster is not None

    async def go():
        try:
            await serving.forecaster.start()
        finally:
            await serving.forecaster.close()

    with pytest.raises(EngineError, match="no fitted forecaster lies there"):
        asyncio.run(go())


def test_numbers_are_json_numbers(desk):
    text = asked(desk, TWO, [36525.0])[1]
    assert "NaN" not in text.decode()
    patient = json.loads(text)["patients"][0]
    assert np.isfinite(patient["document"]["codes"][0]["forecasts"][0]["value"])

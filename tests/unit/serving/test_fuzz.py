"""A few hundred valid and invalid requests to every route, made from the OpenAPI document.

`benchmarks/serving_fuzz.py` makes 50,000 against the running server.
"""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis.errors import Unsatisfiable
from serving_stub import StubForecaster, client, make_app, make_serving

from medimind.serving.limits import Limits

schemathesis = pytest.importorskip("schemathesis", reason="the extra 'dev' is not installed")
requests = pytest.importorskip("requests", reason="it comes with schemathesis")

CASES = 8


def operations():
    limits = Limits()
    app = make_app(make_serving(forecaster=StubForecaster(limits), limits=limits))
    document = app.openapi()
    document["components"]["schemas"]["ChatRequest"]["properties"]["model"] = {
        "enum": ["base", "tuned"]
    }
    schema = schemathesis.openapi.from_dict({**document, "servers": [{"url": "http://ward.test"}]})
    return app, [one.ok() for one in schema.get_all_operations()]


@schemathesis.serializer("text/csv", "application/x-ndjson")
def _as_it_is(_, value):
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


@pytest.mark.parametrize("mode", list(schemathesis.GenerationMode), ids=lambda mode: mode.value)
def test_no_request_finds_a_bug(mode):
    app, found = operations()
    statuses = []

    async def send(case):
        sent = requests.Request(**_arguments(case)).prepare()
        async with client(app) as http:
            return await http.request(
                sent.method, sent.url, headers=dict(sent.headers), content=sent.body
            )

    def check(case):
        response = asyncio.run(send(case))
        statuses.append(response.status_code)
        assert response.status_code < 500, case.as_curl_command()
        if response.status_code >= 400:
            assert set(response.json()["error"]) == {"message", "type", "param", "code"}

    for operation in found:
        made = given(case=operation.as_strategy(generation_mode=mode))(check)
        tested = settings(
            max_examples=CASES,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )(seed(7)(made))
        try:
            tested()
        except Unsatisfiable:  # a route without anything that could be wrong
            assert mode.value == "negative"
    assert len(statuses) > 5 * CASES
    assert (200 if mode.value == "positive" else 400) in statuses


def _arguments(case):
    arguments = case.as_transport_kwargs(base_url="http://ward.test")
    return {
        name: arguments[name]
        for name in ("method", "url", "headers", "params", "json", "data", "cookies")
        if name in arguments
    }

"""Schemathesis against the running server: valid and invalid requests to every route, no 5xx.

    python benchmarks/serving_fuzz.py --cases 50000
    python benchmarks/serving_fuzz.py --cases 5000 --add     # to what was found before

Cases are made from the OpenAPI document that the server gives, with the names of its models put in,
and tables and Bundles that resemble records, so that chats and forecasts get further than "no such
model" and "no such column". Half of the cases go to the chat, a quarter to the forecast (two thirds
and none in the first 34,428 cases, which were made before there was one). The engine is the
stub, so a 503 counts as a failure too; the forecaster is real, fitted here. Loopback only.
"""

from __future__ import annotations

import argparse
import fcntl
import tempfile
import time
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from serving_client import read_result, small_forecaster, stub_server, write_result

CHAT = "/v1/chat/completions"
FORECAST = "/api/forecast"
SHARES = {("POST", CHAT): 1 / 2, ("POST", FORECAST): 1 / 4}

# A small mix of what is right and what is nearly so, for tables and for FHIR.
CODES = ["98979-8", "4548-4", "2160-0", "egfr", "my-own", "98979-9", ""]
UNITS = ["mL/min/{1.73_m2}", "%", "mg/dL", "umol/L", "mmol/mol", "parsecs", ""]
TABLE = {
    "type": "string",
    "pattern": (
        r"\Apatient,time,code,value,unit\n(("
        r"[A-C],[0-9]{1,4},98979-8,[1-9][0-9](\.[0-9])?,mL/min/\{1\.73_m2\}"
        r"|[A-C],2024-0[1-9]-1[0-9],4548-4,[5-9](\.[0-9])?,%"
        r"|([A-C]|'|\u202e|),([0-9]{1,5}|2024-0[1-9]-[0-3][0-9]|-1|),"
        r"(98979-8|4548-4|2160-0|egfr|my-own|98979-9|),([0-9]{1,4}(\.[0-9])?|-5|nan|<3|1e400|),"
        r"(mL/min/\{1\.73_m2\}|%|mg/dL|umol/L|parsecs|)"
        r")\n){1,20}\Z"
    ),
}
RIGHT = {
    "enum": [
        {
            "resourceType": "Observation",
            "status": "final",
            "subject": {"reference": "Patient/A"},
            "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
            "effectiveDateTime": day,
            "valueQuantity": {"value": value, "unit": unit},
        }
        for code, value, unit in (("98979-8", 71.5, UNITS[0]), ("4548-4", 6.5, "%"))
        for day in ("2022-03-01", "2023-05-06T10:00:00Z")
    ]
}
OBSERVATION = {
    "type": "object",
    "properties": {
        "resourceType": {"enum": ["Observation", "Observation", "Patient", "Condition"]},
        "id": {"type": "string"},
        "status": {"enum": ["final", "preliminary", "entered-in-error", "odd"]},
        "subject": {
            "type": "object",
            "properties": {"reference": {"enum": ["Patient/A", "Patient/B", "urn:uuid:C", ""]}},
            "required": ["reference"],
        },
        "code": {
            "type": "object",
            "properties": {
                "coding": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "properties": {
                            "system": {"enum": ["http://loinc.org", "urn:own"]},
                            "code": {"enum": CODES},
                        },
                        "required": ["code"],
                    },
                    "maxItems": 2,
                },
                "text": {"type": "string"},
            },
        },
        "effectiveDateTime": {"enum": ["2024-01-05", "2024-06-01T10:00:00Z", "2031-01-01", "x"]},
        "valueQuantity": {
            "type": "object",
            "properties": {"value": {"type": "number"}, "unit": {"enum": UNITS}},
        },
    },
    "required": ["resourceType"],
}
BUNDLE = {
    "type": "object",
    "properties": {
        "resourceType": {"const": "Bundle"},
        "type": {"const": "collection"},
        "entry": {
            "type": "array",
            "items": {
                "type": "object",
                "properties": {"resource": {"anyOf": [RIGHT, OBSERVATION]}},
                "required": ["resource"],
            },
            "maxItems": 8,
        },
    },
    "required": ["resourceType", "entry"],
}


@schemathesis.serializer("text/csv", "application/x-ndjson")
def _as_it_is(_: Any, value: Any) -> bytes | None:
    """Texts go over as they are; what a negative case makes of them, as its text."""
    return value if isinstance(value, bytes) else str(value).encode("utf-8", "surrogatepass")


def fuzz(schema: Any, session: requests.Session, *, cases: int) -> dict[str, Any]:
    """Statuses of so many cases, and what went wrong."""
    operations = [result.ok() for result in schema.get_all_operations()]
    rest = 1 - sum(SHARES.values())
    others = len(operations) - len(SHARES)
    statuses: Counter[str] = Counter()
    forecasts: Counter[str] = Counter()
    failures: list[str] = []
    for operation in operations:
        key = (operation.method.upper(), operation.path)
        share = round(cases * SHARES.get(key, rest / others)) + 1
        before = statuses.copy()
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            _run(operation, mode, share // 2 + 1, session, statuses, failures)
            print(operation.label, mode.value, sum(statuses.values()), flush=True)
        if key == ("POST", FORECAST):
            forecasts = statuses - before
    return {
        "cases": sum(statuses.values()),
        "operations": len(operations),
        "statuses": dict(sorted(statuses.items())),
        "statuses_of_forecasts": dict(sorted(forecasts.items())),
        "server_errors": len(failures),
        "first_failures": failures[:5],
    }


def _run(
    operation: Any,
    mode: GenerationMode,
    count: int,
    session: requests.Session,
    statuses: Counter[str],
    failures: list[str],
) -> None:
    before = sum(statuses.values())

    def check(case: Any) -> None:
        try:
            response = case.call(session=session, timeout=600)
        except requests.RequestException:  # this machine may pause both sides for minutes
            try:
                response = case.call(session=session, timeout=600)
            except requests.RequestException as error:
                failures.append(f"{type(error).__name__} {case.as_curl_command()[:600]}")
                return
        statuses[str(response.status_code)] += 1
        if response.status_code >= 500:
            failures.append(f"{response.status_code} {case.as_curl_command()[:600]}")

    seed = 0
    while (done := sum(statuses.values()) - before) < count and seed < 60:
        seed += 1
        tested = settings(
            max_examples=min(2000, count - done),
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
        )(given(case=operation.as_strategy(generation_mode=mode))(check))
        try:
            tested()
        except Exception as error:  # a mode that has no cases for this operation
            print(operation.label, mode.value, type(error).__name__, str(error)[:100])
            return


def _sum(before: dict[str, Any], now: dict[str, Any]) -> dict[str, Any]:
    def both(name: str) -> dict[str, int]:
        return dict(sorted((Counter(before.get(name, {})) + Counter(now[name])).items()))

    return {
        "cases": before.get("cases", 0) + now["cases"],
        "operations": now["operations"],
        "statuses": both("statuses"),
        "statuses_of_forecasts": both("statuses_of_forecasts"),
        "server_errors": before.get("server_errors", 0) + now["server_errors"],
        "first_failures": before.get("first_failures", []) + now["first_failures"],
        "seconds": round(before.get("seconds", 0) + now["seconds"], 1),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cases", type=int, default=50_000)
    parser.add_argument("--add", action="store_true", help="Count on from the last result.")
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    with (
        tempfile.TemporaryDirectory() as folder,
        stub_server(parallel=4, queue=32, forecaster=small_forecaster(Path(folder))) as target,
        requests.Session() as session,
    ):
        session.headers["Authorization"] = f"Bearer {target.token}"
        url = f"http://127.0.0.1:{target.port}"
        document = session.get(f"{url}/api/openapi.json", timeout=30).json()
        document["servers"] = [{"url": url}]
        properties = document["components"]["schemas"]["ChatRequest"]["properties"]
        properties["model"] = {"enum": ["base", "tuned"]}
        records = document["paths"][FORECAST]["post"]["requestBody"]["content"]
        records["text/csv"] = {"schema": TABLE}
        records["application/fhir+json"] = {"schema": BUNDLE}
        schema = schemathesis.openapi.from_dict(document)
        schema.config.update(base_url=url)
        started = time.perf_counter()
        found = fuzz(schema, session, cases=arguments.cases)
        found["seconds"] = round(time.perf_counter() - started, 1)
        assert session.get(f"{url}/healthz", timeout=30).status_code == 200
    with (Path(tempfile.gettempdir()) / "serving_fuzz.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several may count at a time
        if arguments.add:
            found = _sum(read_result("serving_fuzz", "schemathesis"), found)
        write_result("serving_fuzz", "schemathesis", found)


if __name__ == "__main__":
    main()

"""Schemathesis against the running server: valid and invalid requests to every route, no 5xx.

    python benchmarks/serving_fuzz.py --cases 50000
    python benchmarks/serving_fuzz.py --cases 5000 --add     # to what was found before

Cases are made from the OpenAPI document that the server gives, with the names of its models put in,
so that the chat gets further than "no such model"; two of three go to the chat. The engine is the
stub, so a 503 counts as a failure too. Loopback only.
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
from serving_client import read_result, stub_server, write_result

CHAT = "/v1/chat/completions"


def fuzz(schema: Any, session: requests.Session, *, cases: int) -> dict[str, Any]:
    """Statuses of so many cases, and what went wrong."""
    operations = [result.ok() for result in schema.get_all_operations()]
    others = len(operations) - 1
    statuses: Counter[str] = Counter()
    failures: list[str] = []
    for operation in operations:
        share = cases * 2 // 3 if operation.path == CHAT else cases // 3 // others + 1
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            _run(operation, mode, share // 2 + 1, session, statuses, failures)
            print(operation.label, mode.value, sum(statuses.values()), flush=True)
    return {
        "cases": sum(statuses.values()),
        "operations": len(operations),
        "statuses": dict(sorted(statuses.items())),
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
        response = case.call(session=session, timeout=30)
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
    statuses = Counter(before.get("statuses", {})) + Counter(now["statuses"])
    return {
        "cases": before.get("cases", 0) + now["cases"],
        "operations": now["operations"],
        "statuses": dict(sorted(statuses.items())),
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
    with stub_server(parallel=4, queue=32) as target, requests.Session() as session:
        session.headers["Authorization"] = f"Bearer {target.token}"
        url = f"http://127.0.0.1:{target.port}"
        document = session.get(f"{url}/api/openapi.json", timeout=30).json()
        document["servers"] = [{"url": url}]
        properties = document["components"]["schemas"]["ChatRequest"]["properties"]
        properties["model"] = {"enum": ["base", "tuned"]}
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

"""Forecasts over HTTP: how long one takes, and ten times as many at once as may wait. Loopback.

    medimind forecast demo
    python benchmarks/serving_forecast.py forecast-demo/model forecast-demo/new.csv

Each file is one patient's; the engine for chats is the stub.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import statistics
import time
from pathlib import Path
from typing import Any

from serving_client import Target, close, stub_server, write_result


async def _forecast(target: Target, records: bytes) -> tuple[int, int, float]:
    """Status, bytes of the reply, seconds."""
    reader, writer = await target.connect()
    started = time.perf_counter()
    try:
        writer.write(target.request("POST", "/api/forecast", records))
        head = await reader.readuntil(b"\r\n\r\n")
        length = int(re.search(rb"content-length: (\d+)", head.lower())[1])
        reply = json.loads(await reader.readexactly(length))
        status = int(head.split()[1])
        assert status == 429 or len(reply["patients"]) == 1, reply
        return status, length, time.perf_counter() - started
    finally:
        close(writer)


async def _all(target: Target, files: list[bytes], *, count: int) -> dict[str, Any]:
    await _forecast(target, files[0])
    alone = [await _forecast(target, files[number % len(files)]) for number in range(count)]
    assert all(status == 200 for status, _, _ in alone)
    at_once = await asyncio.gather(
        *(_forecast(target, files[number % len(files)]) for number in range(80))
    )
    seconds = [value for _, _, value in alone]
    return {
        "patients": len(files),
        "rows_a_patient": round(statistics.mean(one.count(b"\n") - 1 for one in files), 1),
        "forecasts": count,
        "median_seconds": round(statistics.median(seconds), 4),
        "p95_seconds": round(statistics.quantiles(seconds, n=20)[-1], 4),
        "reply_bytes": round(statistics.mean(length for _, length, _ in alone)),
        "at_once": len(at_once),
        "answered": sum(status == 200 for status, _, _ in at_once),
        "refused_429": sum(status == 429 for status, _, _ in at_once),
        "slowest_seconds": round(max(value for _, _, value in at_once), 3),
    }


def _by_patient(table: Path) -> list[bytes]:
    header, *rows = table.read_text().splitlines()
    patients: dict[str, list[str]] = {}
    for row in rows:
        patients.setdefault(row.partition(",")[0], []).append(row)
    return ["\n".join([header, *mine, ""]).encode() for mine in patients.values()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("forecaster", type=Path)
    parser.add_argument("records", type=Path, help="A long table.")
    parser.add_argument("--count", type=int, default=200)
    arguments = parser.parse_args()
    files = _by_patient(arguments.records)
    with stub_server(forecaster=arguments.forecaster) as target:
        found = asyncio.run(_all(target, files, count=arguments.count))
    write_result("serving_forecast", "simulated_patients", found)


if __name__ == "__main__":
    main()

"""Tokens a second and time to the first, beside llama.cpp's own server in the same run.

    python benchmarks/serving_speed.py

Both serve the built-in model with the same threads, slots, context and prompt batch; both are asked
by the same client with the same prompt and sampling, in turns. llama.cpp's server is the one that
xllamacpp ships, in a process of its own; it gets the prompt as token ids, as ours gives it to the
engine. Loopback only.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import sys
import time
from importlib.metadata import version
from typing import Any

from serving_client import Target, lines, running, write_result
from serving_kill import MODEL, real_server

QUESTION = "Explain in detail how the kidneys regulate blood pressure, step by step."
CONTEXT, SLOTS, THREADS = 1024, 4, 2
TUNING = {"temperature": 0.7, "top_p": 0.95}


def serve_llama() -> None:
    """llama.cpp's server alone, until the input ends; prints its address."""
    from medimind.engines.llama_server import start_llama
    from medimind.models.resolve import resolve_model
    from medimind.serving.llama_backend import BATCH

    server = start_llama(
        resolve_model(MODEL).path,
        key="key",
        adapter=None,
        context=CONTEXT,
        parallel=SLOTS,
        threads=THREADS,
        batch=BATCH,
    )
    print(server.listening_address, flush=True)
    sys.stdin.read()


def _prompt_ids() -> list[int]:
    from medimind.engines.gguf_chat import open_chat
    from medimind.models.resolve import resolve_model

    return open_chat(resolve_model(MODEL).path).ids([("user", QUESTION)])


async def _ask(target: Target, request: bytes) -> tuple[float, float, int]:
    """Seconds to the first piece and to the end, and pieces."""
    reader, writer = await target.connect()
    try:
        started = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert b" 200 " in head.split(b"\r\n")[0], head
        first, count = 0.0, 0
        async for line in lines(reader):
            if b'"content":"' in line and b'"content":""' not in line:
                first = first or time.perf_counter() - started
                count += 1
            if line == b"data: [DONE]" or b'"stop":true' in line:
                break
        return first, time.perf_counter() - started, count
    finally:
        writer.close()


async def _round(target: Target, make: Any, *, clients: int, tokens: int, seed: int) -> Any:
    started = time.perf_counter()
    found = await asyncio.gather(
        *(_ask(target, make(target, tokens, seed + number)) for number in range(clients))
    )
    seconds = time.perf_counter() - started
    return sum(count for _, _, count in found) / seconds, [first for first, _, _ in found]


def _ours(target: Target, tokens: int, seed: int) -> bytes:
    return target.chat(QUESTION, max_tokens=tokens, seed=seed, **TUNING)


def _theirs(ids: list[int]) -> Any:
    def make(target: Target, tokens: int, seed: int) -> bytes:
        body = {
            "prompt": ids,
            "n_predict": tokens,
            "seed": seed,
            "stream": True,
            "cache_prompt": True,
            "top_k": 0,
            "min_p": 0.0,
            "repeat_penalty": 1.0,
            **TUNING,
        }
        return target.request("POST", "/completion", json.dumps(body).encode())

    return make


async def _compare(ours: Target, theirs: Target, *, rounds: int, tokens: int) -> dict[str, Any]:
    makers = {"medimind": (ours, _ours), "llama.cpp": (theirs, _theirs(_prompt_ids()))}
    found: dict[str, Any] = {}
    for clients in (1, SLOTS):
        speeds: dict[str, list[float]] = {name: [] for name in makers}
        firsts: dict[str, list[float]] = {name: [] for name in makers}
        for number in range(rounds + 1):
            for name in list(makers)[:: 1 if number % 2 else -1]:
                target, make = makers[name]
                speed, first = await _round(
                    target, make, clients=clients, tokens=tokens, seed=100 * number
                )
                if number:  # the first round warms up
                    speeds[name].append(speed)
                    firsts[name] += first
        pairs = zip(speeds["medimind"], speeds["llama.cpp"])
        found[f"{clients} clients" if clients > 1 else "1 client"] = {
            "tokens_per_second": {n: round(statistics.median(s), 2) for n, s in speeds.items()},
            "ratio": round(
                statistics.median(speeds["medimind"]) / statistics.median(speeds["llama.cpp"]), 4
            ),
            "median_of_paired_ratios": round(statistics.median(a / b for a, b in pairs), 4),
            "seconds_to_first_token": {
                name: round(statistics.median(values), 4) for name, values in firsts.items()
            },
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--tokens", type=int, default=128)
    parser.add_argument("--llama", action="store_true", help="Only llama.cpp's server; internal.")
    arguments = parser.parse_args()
    if arguments.llama:
        serve_llama()
        return
    flags = ("--context", CONTEXT, "--parallel", SLOTS, "--threads", THREADS)
    with (
        real_server(*map(str, flags)) as ours,
        running([__file__, "--llama"], stdin=-1) as (process, address),
    ):
        theirs = Target(int(address.strip().rsplit(":", 1)[1]), process.pid, token="key")
        found = asyncio.run(
            _compare(ours, theirs, rounds=arguments.rounds, tokens=arguments.tokens)
        )
    shape = {"model": MODEL, "threads": THREADS, "slots": SLOTS, "new_tokens": arguments.tokens}
    versions = {"xllamacpp": version("xllamacpp"), "uvicorn": version("uvicorn")}
    write_result("serving_speed", "generation", {**shape, "versions": versions, **found})


if __name__ == "__main__":
    main()

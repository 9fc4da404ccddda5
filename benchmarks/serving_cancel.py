"""Hang-ups while the real engine reads a prompt or writes an answer: how soon its slot is free.

    python benchmarks/serving_cancel.py --each 10

The real server with the built-in model through the command line, with one slot. Beside each hang-up
stands how long the next person's one-token chat takes from that moment; alone it takes
``seconds_alone``. Loopback only.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Any

from serving_client import Target, lines, stream_chat, write_result
from serving_kill import real_server

LONG = 3400
"""Words, about as many tokens: more than ten seconds of reading on two cores."""


async def _while_it_reads(target: Target, number: int, *, stream: bool, reset: bool) -> bool:
    _, writer = await target.connect()
    writer.write(target.chat(f"{number} " + "fever " * LONG, stream=stream, max_tokens=50))
    await writer.drain()
    await asyncio.sleep(1)
    return await _go(target, writer, reset=reset)


async def _go(target: Target, writer: asyncio.StreamWriter, *, reset: bool) -> bool:
    """Hang up; whether the slot was in use until then."""
    was_in_use = await target.in_use() == 1
    writer.transport.abort() if reset else writer.close()
    return was_in_use


async def _while_it_writes(target: Target, number: int, *, stream: bool, reset: bool) -> bool:
    reader, writer = await target.connect()
    writer.write(target.chat(f"{number} Tell a long story.", stream=stream, max_tokens=900))
    if stream:
        await reader.readuntil(b"\r\n\r\n")
        async for line in lines(reader):
            if b'"content":"' in line and b'"content":""' not in line:
                break
    else:
        await asyncio.sleep(1)
    return await _go(target, writer, reset=reset)


PHASES: dict[str, tuple[Callable[..., Awaitable[bool]], bool, bool]] = {
    "reads_for_a_stream": (_while_it_reads, True, False),
    "reads_for_a_stream_reset": (_while_it_reads, True, True),
    "reads_for_a_whole_answer": (_while_it_reads, False, False),
    "writes_a_stream": (_while_it_writes, True, False),
    "writes_a_stream_reset": (_while_it_writes, True, True),
    "writes_a_whole_answer": (_while_it_writes, False, False),
}


async def _next(target: Target, number: int) -> float:
    started = time.perf_counter()
    status, text, _ = await stream_chat(target, f"{number} Say yes.", max_tokens=1, temperature=0)
    assert (status, bool(text)) == (200, True), (status, text)
    return time.perf_counter() - started


async def _all(target: Target, *, each: int) -> dict[str, Any]:
    alone = [await _next(target, number) for number in range(each + 2)][2:]
    seconds: dict[str, list[float]] = {}
    number = 1000
    for phase, (hang_up, stream, reset) in PHASES.items():
        found = seconds.setdefault(phase, [])
        while len(found) < each:
            number += 2
            if await hang_up(target, number, stream=stream, reset=reset):  # else it was over
                found.append(await _next(target, number + 1))
        print(phase, [round(one, 3) for one in seconds[phase]], flush=True)
    free = {phase: max(found) - statistics.median(alone) for phase, found in seconds.items()}
    return {
        "model": "smollm2-135m-instruct",
        "hang_ups": each * len(PHASES),
        "seconds_alone": round(statistics.median(alone), 3),
        "slowest_seconds_of_the_next": {
            phase: round(max(found), 3) for phase, found in seconds.items()
        },
        "median_seconds_of_the_next": {
            phase: round(statistics.median(found), 3) for phase, found in seconds.items()
        },
        "slot_free_after_seconds_at_most": round(max(free.values()), 3),
        "slots_left_in_use": await target.in_use(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--each", type=int, default=10)
    arguments = parser.parse_args()
    with real_server("--context", "4096", "--parallel", "1") as target:
        found = asyncio.run(_all(target, each=arguments.each))
    write_result("serving_cancel", "hang_ups", found)


if __name__ == "__main__":
    main()

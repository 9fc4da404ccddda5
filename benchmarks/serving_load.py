"""The server under load: many streams, floods, hang-ups, slow clients. Loopback, stub engine.

    python benchmarks/serving_load.py                    # all, about 20 minutes
    python benchmarks/serving_load.py streams --minutes 1

Bars: 500 streams for 10 minutes, none dropped or mixed, memory growth under 5 %; at 10 times the
queue each request answered or refused within 1 s; 1,000 hang-ups at every phase, slots free within
1 s; 1,000 slow clients leave honest ones under twice their baseline.
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import time
from typing import Any

import psutil
from serving_client import HERE, Target, close, running, stream_chat, stub_server, write_result
from serving_herd import KINDS

PARTS = ("streams", "flood", "hangups", "slow")


class _ActiveClock:
    """Seconds in which this machine let us run: another's measurement may pause us."""

    def __init__(self) -> None:
        self._started = self._last = time.perf_counter()
        self.paused = 0.0

    def tick(self) -> None:
        now = time.perf_counter()
        if now - self._last > 10:
            self.paused += now - self._last
        self._last = now

    def seconds(self) -> float:
        return time.perf_counter() - self._started - self.paused


async def streams(*, clients: int, minutes: float) -> dict[str, Any]:
    """Many streams at once; every piece is checked."""
    count, pace = 40, 0.5
    with stub_server(parallel=clients, queue=32) as target:
        memory: list[tuple[float, int]] = []
        counts = {"streams": 0, "pieces": 0, "dropped": 0, "mixed": 0}
        clock = _ActiveClock()

        async def one(number: int) -> None:
            await asyncio.sleep(number * 0.01)
            turn = 0
            while clock.seconds() < 60 * minutes:
                name = f"c{number}t{turn}"
                turn += 1
                try:
                    _, text, _ = await stream_chat(target, f"{name} {count} {pace}")
                except (OSError, RuntimeError, EOFError):
                    counts["dropped"] += 1
                    continue
                wanted = "".join(f"{name}:{index} " for index in range(count))
                counts["streams"] += 1
                counts["pieces"] += count
                counts["mixed"] += text != wanted

        async def watch() -> None:
            process = psutil.Process(target.pid)
            while True:
                memory.append((clock.seconds(), process.memory_info().rss))
                await asyncio.sleep(1)
                clock.tick()

        watcher = asyncio.create_task(watch())
        await asyncio.gather(*(one(number) for number in range(clients)))
        watcher.cancel()
        left = await target.in_use()
    last = memory[-1][0]
    early = [rss for at, rss in memory if 0.1 * last < at < 0.25 * last]
    late = [rss for at, rss in memory if 0.8 * last < at < 0.95 * last]
    growth = statistics.mean(late) / statistics.mean(early) - 1
    return {
        "clients": clients,
        "minutes": minutes,
        "minutes_paused_by_others_beside": round(clock.paused / 60, 1),
        **counts,
        "memory_early_mib": round(statistics.mean(early) / 2**20, 1),
        "memory_late_mib": round(statistics.mean(late) / 2**20, 1),
        "memory_growth_percent": round(100 * growth, 2),
        "slots_left_in_use": left,
    }


async def flood(*, queue: int = 32, times: int = 10) -> dict[str, Any]:
    """Ten times as many requests as may wait, at once: when each hears the first of its answer."""
    with stub_server(parallel=4, queue=queue) as target:

        async def one(number: int) -> tuple[int, float]:
            reader, writer = await target.connect()
            started = time.perf_counter()
            writer.write(target.chat(f"f{number} 5 0.02", stream=number % 2 == 0))
            head = await reader.readuntil(b"\r\n\r\n")
            seconds = time.perf_counter() - started
            await reader.read(65536)
            close(writer)
            return int(head.split()[1]), seconds

        found = await asyncio.gather(*(one(number) for number in range(times * queue)))
    seconds = sorted(value for _, value in found)
    return {
        "requests": len(found),
        "answered": sum(status == 200 for status, _ in found),
        "refused_429": sum(status == 429 for status, _ in found),
        "other": sum(status not in (200, 429) for status, _ in found),
        "slowest_seconds": round(seconds[-1], 3),
        "median_seconds": round(statistics.median(seconds), 3),
    }


async def _hang_up(target: Target, phase: str) -> None:
    """A client that goes at some point."""
    reader, writer = await target.connect()
    chat = target.chat("h 1000 0.02", stream=phase != "while_it_waits_for_all")
    try:
        if phase == "in_the_head":
            writer.write(chat[:40])
        elif phase == "in_the_body":
            writer.write(chat[:-30])
        elif phase != "after_connecting":
            writer.write(chat)
        await writer.drain()
        if phase == "while_it_waits_for_all":
            await asyncio.sleep(0.02)
        if phase in ("after_the_head", "within_the_stream", "by_reset"):
            await reader.readuntil(b"\r\n\r\n")
        if phase in ("within_the_stream", "by_reset"):
            for _ in range(3):
                await reader.readuntil(b"\n\n")
    finally:
        close(writer, abort=phase == "by_reset")


PHASES = (
    "after_connecting",
    "in_the_head",
    "in_the_body",
    "after_the_request",
    "while_it_waits_for_all",
    "after_the_head",
    "within_the_stream",
    "by_reset",
)


async def hangups(*, count: int = 1000) -> dict[str, Any]:
    """Hang-ups at every phase, one and eight at a time: how soon no slot is in use."""
    seconds: dict[str, list[float]] = {phase: [] for phase in PHASES}
    with stub_server(parallel=4, queue=32) as target:
        done = 0
        while done < count:
            phase = PHASES[(done // 8) % len(PHASES)]
            together = 8 if (done // 64) % 2 else 1
            await asyncio.gather(*(_hang_up(target, phase) for _ in range(together)))
            started = time.perf_counter()
            while await target.in_use():
                if time.perf_counter() - started > 10:
                    raise RuntimeError(f"slots are not free after a hang-up {phase}")
            seconds[phase].append(time.perf_counter() - started)
            done += together
        status, text, _ = await stream_chat(target, "after 3 0")
    return {
        "hang_ups": done,
        "slowest_seconds": {phase: round(max(values), 3) for phase, values in seconds.items()},
        "answers_afterwards": status == 200 and text == "after:0 after:1 after:2 ",
    }


async def _honest(target: Target, *, count: int) -> list[float]:
    found = []
    for number in range(count):
        started = time.perf_counter()
        _, text, _ = await stream_chat(target, f"honest{number} 20 0.02")
        assert text.count("honest") == 20
        found.append(time.perf_counter() - started)
    return found


async def slow(*, clients: int = 1000, count: int = 100) -> dict[str, Any]:
    """Honest clients alone, then beside slow ones, who have a process of their own."""
    with stub_server(parallel=2048, queue=32, **{"read-seconds": 15}) as target:
        await _honest(target, count=5)
        alone = await _honest(target, count=count)
        herd = [str(HERE / "serving_herd.py"), str(target.port), "--clients", str(clients)]
        server = psutil.Process(target.pid)
        with running(herd):
            connections = len(server.net_connections())
            before, started = server.cpu_times(), time.perf_counter()
            beside = await _honest(target, count=count)
            after, seconds = server.cpu_times(), time.perf_counter() - started
    ratio = statistics.median(beside) / statistics.median(alone)
    ratio_95 = _high(beside) / _high(alone)
    return {
        "slow_clients": clients,
        "kinds": KINDS,
        "connections_seen": connections,
        "honest_chats": count,
        "median_seconds_alone": round(statistics.median(alone), 4),
        "median_seconds_beside": round(statistics.median(beside), 4),
        "ratio_of_medians": round(ratio, 3),
        "p95_seconds_alone": round(_high(alone), 4),
        "p95_seconds_beside": round(_high(beside), 4),
        "ratio_of_95th_percentiles": round(ratio_95, 3),
        "slowest_seconds_beside": round(max(beside), 4),
        "cores_used_by_the_server_beside": round(
            (after.user + after.system - before.user - before.system) / seconds, 3
        ),
    }


def _high(seconds: list[float]) -> float:
    return statistics.quantiles(seconds, n=20)[-1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("parts", nargs="*", choices=[*PARTS, []], help=", ".join(PARTS))
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--clients", type=int, default=500)
    arguments = parser.parse_args()
    for part in arguments.parts or PARTS:
        if part == "streams":
            work = streams(clients=arguments.clients, minutes=arguments.minutes)
        else:
            work = {"flood": flood, "hangups": hangups, "slow": slow}[part]()
        write_result("serving_load", part, asyncio.run(work))


if __name__ == "__main__":
    main()

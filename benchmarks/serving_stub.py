"""The real server around an engine that says numbered pieces at a fixed pace.

    python benchmarks/serving_stub.py --port 8600 --parallel 600

The question is ``NAME COUNT SECONDS WIDTH``: the answer is ``NAME:0 NAME:1 ...``, each padded to
WIDTH characters. Prints ``ready PORT`` when it answers.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncGenerator
from pathlib import Path
from typing import Any

from medimind.prompts.live import Said
from medimind.serving.about import About, ModelFacts
from medimind.serving.access import give_access
from medimind.serving.addresses import bind
from medimind.serving.admission import Admission
from medimind.serving.app import build_app
from medimind.serving.backend import Ask, Ended
from medimind.serving.forecast_process import ForecastProcess
from medimind.serving.guard import Places
from medimind.serving.limits import Limits
from medimind.serving.metrics import Metrics
from medimind.serving.run import serve
from medimind.serving.serving import Serving

TOKEN = "token-of-the-load-benchmark"


class PacedBackend:
    """Says what the question asks for."""

    kind = "stub"
    variants = ("base", "tuned")
    num_restarts = 0
    is_ready = True

    async def start(self) -> None:
        pass

    async def close(self) -> None:
        pass

    async def prepare(self, ask: Ask) -> tuple[str, int, float, int]:
        words = ask.messages[-1][1].split()
        name, count, seconds, width = [*words, *("x", "3", "0", "0")[len(words) :]][:4]
        try:
            return name, min(int(count), 5000), min(float(seconds), 1.0), min(int(width), 5000)
        except ValueError:
            return name, 3, 0.0, 0

    async def generate(self, ask: Ask, prepared: Any) -> AsyncGenerator[Said | Ended, None]:
        name, count, seconds, width = prepared
        for index in range(count):
            await asyncio.sleep(seconds)
            yield Said("answer", f"{name}:{index} ".ljust(width))
        yield Ended("stop", 1, count)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--parallel", type=int, default=4)
    parser.add_argument("--queue", type=int, default=32)
    parser.add_argument("--read-seconds", type=float, default=15.0)
    parser.add_argument("--forecaster", type=Path)
    arguments = parser.parse_args()
    limits = Limits(
        parallel=arguments.parallel,
        queue=arguments.queue,
        read_seconds=arguments.read_seconds,
        forecast_seconds=600,
    )
    backend, admission = PacedBackend(), Admission(limits)
    forecaster = None
    if arguments.forecaster is not None:
        forecaster = ForecastProcess(arguments.forecaster, mapping=None, limits=limits)
    serving = Serving(
        backend=backend,
        limits=limits,
        admission=admission,
        metrics=Metrics(admission=admission, backend=backend),
        about=About(ModelFacts(name="stub")),
        forecaster=forecaster,
    )
    listener = bind("127.0.0.1", arguments.port)
    port = listener.getsockname()[1]
    app = build_app(
        serving, access=give_access({TOKEN: "load"}), places=Places(frozenset({"127.0.0.1"}))
    )
    asyncio.run(
        serve(app, serving, listener=listener, on_ready=lambda: print("ready", port, flush=True))
    )


if __name__ == "__main__":
    main()

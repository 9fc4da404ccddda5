"""From the recipe's settings to what is asked, and the whole of a benchmark run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from medimind.config.benchmarks import SAMPLING_TEMPERATURE, SAMPLING_TOP_P, BenchmarkConfig
from medimind.config.evaluation import DecodingConfig
from medimind.engines.engine import Decoding
from medimind.errors import EvaluationError
from medimind.evaluation.answering.answer import Progress
from medimind.evaluation.answering.asks import Arm, Plan
from medimind.evaluation.answering.results import BenchmarkResult, run_benchmarks, write_json
from medimind.evaluation.benchmarks.read import BenchmarkItems, read_benchmark

CARD = "benchmark.json"


def evaluate_benchmarks(
    arms: Sequence[Arm],
    *,
    config: BenchmarkConfig,
    decoding: DecodingConfig,
    folder: Path,
    progress: Progress | None = None,
) -> list[BenchmarkResult]:
    """Every benchmark of the settings by every arm, in ``folder``.

    Args:
        arms: The first is what the others are held to.
        config: What is asked, and how.
        decoding: What ``config`` leaves open, and the seed.
        folder: Where records and ``results.json`` go.
        progress: Called with a title, the finished and the wanted items.

    Raises:
        DataError: A benchmark's files or the hub cannot be read.
        EngineError: An output cannot be had; what is there is recorded.
        EvaluationError: No benchmark is named, one is not there, or two have the same name.
    """
    if not config.names:
        raise EvaluationError("no benchmark is named", fix="Name one: --benchmark medqa")
    plan = make_plan(config, decoding)
    plan.check()
    path = None if config.path is None else Path(config.path).expanduser()
    benchmarks = [_read(name, path, config.limit, folder) for name in config.names]
    _check_names(benchmarks)
    for items in benchmarks:
        place = folder / items.card.name
        place.mkdir(parents=True, exist_ok=True)
        write_json(place / CARD, items.to_dict())
    return run_benchmarks(benchmarks, arms=arms, plan=plan, folder=folder, progress=progress)


def make_plan(config: BenchmarkConfig, decoding: DecodingConfig) -> Plan:
    """What is asked of each question; several samples are drawn as DeepSeek-R1 advises."""
    several = config.samples > 1
    temperature, top_p = config.temperature, config.top_p
    if temperature is None:
        temperature = SAMPLING_TEMPERATURE if several else decoding.temperature
    if top_p is None:
        top_p = SAMPLING_TOP_P if several else decoding.top_p
    return Plan(
        Decoding(
            max_new_tokens=config.max_new_tokens or decoding.max_new_tokens,
            thinking_budget=config.thinking_budget or decoding.thinking_budget,
            temperature=temperature,
            top_p=top_p,
        )
        if config.generate
        else None,
        num_samples=config.samples,
        seed=decoding.seed,
        likelihood=None if config.likelihood == "none" else config.likelihood,
    )


def _check_names(benchmarks: Sequence[BenchmarkItems]) -> None:
    """Two of one name would share their records, and be read as one."""
    names = [items.card.name for items in benchmarks]
    repeated = [items for items in benchmarks if names.count(items.card.name) > 1]
    if repeated:
        raise EvaluationError(
            f"two benchmarks have the name '{repeated[0].card.name}': "
            f"{' and '.join(items.origin for items in repeated)}",
            fix="A file is called by its name without the ending: rename one, or ask it in a call "
            "and a folder of its own",
        )


def _read(name: str, path: Path | None, limit: int | None, folder: Path) -> BenchmarkItems:
    """A benchmark from the hub keeps the commit that its first run took."""
    card = folder / name / CARD
    if path is None and "@" not in name and card.is_file():
        revision = json.loads(card.read_text("utf-8")).get("revision")
        name = f"{name}@{revision}" if revision else name
    return read_benchmark(name, path=path, limit=limit)

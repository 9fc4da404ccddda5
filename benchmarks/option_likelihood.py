"""Option likelihoods: questions a second, one at a time and many in one pass.

    python benchmarks/option_likelihood.py --data ../shared/data/mcq
    python benchmarks/option_likelihood.py --data ../shared/data/mcq --device cuda --peer

Both ways are asked the same questions of the same weights, in turns, with the harness's prompts
and with ours. Every figure of both must agree, and every choice, or the speed does not count.

``--peer`` asks the same of the same weights through transformers, as lm-evaluation-harness does:
options of one token share a text, longer ones have one each; first one text at a time (its
default), then 32 padded to one length.
On a card the tests of option likelihoods run first; nothing is timed when one fails.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from medimind.config import ModelConfig
from medimind.engines.engine import OptionRequest
from medimind.engines.own import OwnEngine
from medimind.evaluation.answering.asks import likelihood_ask
from medimind.evaluation.benchmarks import BENCHMARKS
from medimind.evaluation.benchmarks.read import read_benchmark
from medimind.export import export_merged
from medimind.models.load import Model, load_model
from medimind.models.options import Choice, option_logprobs
from medimind.tracking.provenance import package_versions

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "option_likelihood.json"
NAMES = ("medqa", "medmcqa", "pubmedqa")
ALONE = 1
TOLERANCE = 1e-4
PEERS_BATCH = 32
TEST = "tests/unit/models/test_options.py::test_a_card_says_what_the_cpu_says"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--quantization", default="none")
    parser.add_argument("--limit", type=int, default=32, help="questions of each benchmark")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--tokens-per-pass", type=int, default=None)
    parser.add_argument("--peer", action="store_true", help="transformers beside")
    parser.add_argument("--out", type=Path, default=RESULT)
    arguments = parser.parse_args()
    config = ModelConfig.model_validate(
        {
            "path": arguments.model,
            "device": arguments.device,
            "dtype": arguments.dtype,
            "quantization": arguments.quantization,
        }
    )
    model = load_model(config)
    peer = load_peer(model) if arguments.peer else None
    is_card = model.device.type == "cuda"
    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "command": "python " + " ".join(sys.argv),
        "device": torch.cuda.get_device_name() if is_card else f"{torch.get_num_threads()} threads",
        "model": f"{model.name}, {model.arithmetic}, {model.quantization}",
        "versions": package_versions(),
        "benchmarks": {},
    }
    if is_card:
        command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", TEST]
        if subprocess.run(command, cwd=ROOT, check=False).returncode:
            print("the test of option likelihoods on a card fails: nothing is timed")
            return 1
        report["tests"] = f"{TEST} passed in this run"
    if peer is not None:
        report["versions"] |= {"transformers": version("transformers")}
    for name in NAMES:
        for wording in ("chat", "harness"):
            choices = questions(model, name, wording, arguments.data, arguments.limit)
            found = both_ways(model, choices, arguments.rounds, arguments.tokens_per_pass)
            if peer is not None:
                own = option_logprobs(model, choices)
                found["transformers"] = {
                    f"{size} at once": of_the_peer(
                        peer, choices, own, size=size, rounds=arguments.rounds
                    )
                    for size in (ALONE, PEERS_BATCH)
                }
            report["benchmarks"][f"{name}, {wording}"] = found
            print(f"{name}, {wording}: {json.dumps(found)}", flush=True)
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    return 0 if all(one["agrees"] for one in report["benchmarks"].values()) else 1


def questions(model: Model, name: str, wording: Any, data: Path, limit: int) -> list[Choice]:
    engine = OwnEngine(model, template=None)
    asked = [
        likelihood_ask(case, BENCHMARKS[name], wording=wording)
        for case in read_benchmark(name, path=data, limit=limit).cases
    ]
    return [as_ids(engine, model, one) for one in asked if one is not None]


def as_ids(engine: OwnEngine, model: Model, one: OptionRequest) -> Choice:
    encode = model.tokenizer.encode
    return Choice(engine.prompt_ids(one.request), [encode(text) for text in one.continuations])


def both_ways(
    model: Model, choices: list[Choice], rounds: int, tokens_per_pass: int | None
) -> dict[str, Any]:
    """Questions a second of the fastest round of each way, and whether both say the same."""
    fastest = {"alone": float("inf"), "together": float("inf")}
    figures: dict[str, list[list[float]]] = {}
    for _ in range(rounds):
        for way, room in (("alone", ALONE), ("together", tokens_per_pass)):
            started = time.perf_counter()
            figures[way] = option_logprobs(model, choices, tokens_per_pass=room)
            fastest[way] = min(fastest[way], time.perf_counter() - started)
    pairs = list(zip(figures["alone"], figures["together"], strict=True))
    largest = max(abs(a - b) for one, other in pairs for a, b in zip(one, other, strict=True))
    same = sum(best(one) == best(other) for one, other in pairs)
    is_exact = model.dtype == torch.float32
    return {
        "questions": len(choices),
        "prompt_tokens": sum(len(choice.prompt_ids) for choice in choices),
        "longest_continuation": max(len(ids) for c in choices for ids in c.continuations),
        "per_second_alone": round(len(choices) / fastest["alone"], 2),
        "per_second_together": round(len(choices) / fastest["together"], 2),
        "ratio": round(fastest["alone"] / fastest["together"], 2),
        "largest_difference_nats": largest,
        "same_choice": same,
        "agrees": same == len(choices) and largest <= TOLERANCE if is_exact else True,
    }


def load_peer(model: Model) -> Any:
    """The same weights in transformers."""
    from transformers import AutoModelForCausalLM

    with tempfile.TemporaryDirectory() as folder:
        export_merged(model, Path(folder))
        peer: Any = AutoModelForCausalLM.from_pretrained(folder, dtype=model.dtype)
    return peer.to(model.device).eval()


def of_the_peer(
    peer: Any,
    choices: Sequence[Choice],
    own: Sequence[Sequence[float]],
    *,
    size: int,
    rounds: int,
) -> dict[str, Any]:
    """Questions a second of transformers' fastest round, and how far both agree."""
    found, seconds = peers_logprobs(peer, choices[:2], size=size), float("inf")  # warm
    for _ in range(rounds):
        started = time.perf_counter()
        found = peers_logprobs(peer, choices, size=size)
        seconds = min(seconds, time.perf_counter() - started)
    return {
        "per_second": round(len(choices) / seconds, 2),
        "same_choice": sum(best(a) == best(b) for a, b in zip(found, own, strict=True)),
        "largest_difference_nats": max(
            abs(a - b)
            for one, other in zip(found, own, strict=True)
            for a, b in zip(one, other, strict=True)
        ),
    }


@torch.inference_mode()
def peers_logprobs(peer: Any, choices: Sequence[Choice], *, size: int) -> list[list[float]]:
    """Each text of prompt and option without its last token once, the longest first, padded."""
    asked: dict[tuple[int, ...], list[tuple[int, int, Sequence[int]]]] = {}
    for number, choice in enumerate(choices):
        for place, ids in enumerate(choice.continuations):
            asked.setdefault((*choice.prompt_ids, *ids[:-1]), []).append((number, place, ids))
    texts = sorted(asked, key=lambda text: -len(text))
    found = [[0.0] * len(choice.continuations) for choice in choices]
    for first in range(0, len(texts), size):
        batch = texts[first : first + size]
        longest = len(batch[0])
        ids = torch.tensor([[*text, *[0] * (longest - len(text))] for text in batch])
        mask = torch.arange(longest) < torch.tensor([len(text) for text in batch])[:, None]
        logits = peer(ids.to(peer.device), attention_mask=mask.to(peer.device)).logits
        for row, text in enumerate(batch):
            for number, place, wanted in asked[text]:
                rows = logits[row, len(text) - len(wanted) : len(text)].float().log_softmax(dim=-1)
                places = torch.tensor(wanted, device=peer.device)[:, None]
                found[number][place] = float(rows.gather(1, places).sum())
    return found


def best(logprobs: Sequence[float]) -> int:
    return max(range(len(logprobs)), key=logprobs.__getitem__)


if __name__ == "__main__":
    sys.exit(main())

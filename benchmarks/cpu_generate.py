"""Generation speed on this CPU: us and transformers' generate, in alternation on the same prompts.

    python benchmarks/cpu_generate.py                     # batch 8, 64 new tokens, 5 rounds
    python benchmarks/cpu_generate.py --batch-size 1 --rounds 9

Both generate greedily from SmolLM2-135M-Instruct in float32, from the same weights, for questions
of the starter set. Nothing is timed when their tokens differ; ``cpu_same_tokens.py`` compares 100
prompts. Processor time is given beside wall time, as other programs on the machine disturb it less.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

from medimind.config import ModelConfig
from medimind.export import export_merged
from medimind.models.generate import generate
from medimind.models.load import load_model
from medimind.prompts.tokenizer import Tokenizer

ROOT = Path(__file__).resolve().parents[1]
STARTER = ROOT / "src/medimind/cases/starter/cases.jsonl"
EOS = 2


def questions(count: int) -> list[str]:
    """So many questions of the starter set."""
    found = [json.loads(line)["question"] for line in STARTER.read_text("utf-8").splitlines()]
    if len(found) < count:
        raise SystemExit(f"the starter set has {len(found)} questions only")
    return found[:count]


Generate = Callable[[Sequence[Sequence[int]]], list[list[int]]]


@dataclass(frozen=True, slots=True)
class Engines:
    """Greedy outputs of a batch from us and from transformers, over the same weights."""

    tokenizer: Tokenizer
    ours: Generate
    theirs: Generate
    peer: transformers.PreTrainedModel

    def prompts(self, count: int) -> list[list[int]]:
        """Token ids of so many questions, as the model's own template puts them."""
        return [
            self.tokenizer.encode(f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n")
            for q in questions(count)
        ]


def engines(new_tokens: int) -> Engines:
    """Both, ready to generate so many tokens."""
    model = load_model(ModelConfig(path="smollm2-135m-instruct", quantization="none", device="cpu"))
    with tempfile.TemporaryDirectory() as folder:
        export_merged(model, Path(folder) / "model")
        peer = transformers.AutoModelForCausalLM.from_pretrained(
            Path(folder) / "model", dtype=torch.float32
        )

    def ours(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        found = generate(model, prompts, max_new_tokens=new_tokens, batch_size=len(prompts))
        return [list(generation.token_ids) for generation in found]

    def theirs(prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        columns = max(map(len, prompts))
        out = peer.generate(
            input_ids=torch.tensor([[0] * (columns - len(p)) + list(p) for p in prompts]),
            attention_mask=torch.tensor([[0] * (columns - len(p)) + [1] * len(p) for p in prompts]),
            max_new_tokens=new_tokens,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=EOS,
        )
        rows = out[:, columns:].tolist()
        return [row[: row.index(EOS) + 1] if EOS in row else row for row in rows]

    return Engines(model.tokenizer, ours, theirs, peer)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/cpu_generate.json")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    both = engines(arguments.new_tokens)
    batch = both.prompts(arguments.batch_size)
    if both.ours(batch) != both.theirs(batch):
        print("the tokens differ: nothing is timed", file=sys.stderr)
        return 1
    report = {
        "speed": {
            "date": time.strftime("%Y-%m-%d"),
            "command": " ".join(["python", *sys.argv]),
            "threads": torch.get_num_threads(),
            "torch": torch.__version__,
            "transformers": transformers.__version__,
            "batch_size": arguments.batch_size,
            "new_tokens": arguments.new_tokens,
            **speed(batch, both.ours, both.theirs, rounds=arguments.rounds),
        }
    }
    text = json.dumps(report, indent=2)
    arguments.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


def speed(
    batch: list[list[int]], ours: Generate, theirs: Generate, *, rounds: int
) -> dict[str, object]:
    """Median tokens a second of both, in alternation."""
    times = [(timed(lambda: ours(batch)), timed(lambda: theirs(batch))) for _ in range(rounds)]
    num_tokens = sum(map(len, ours(batch)))
    result: dict[str, object] = {
        "rounds": rounds,
        "prompt_tokens": sum(map(len, batch)),
        "tokens": num_tokens,
    }
    for index, clock in enumerate(("processor", "wall")):
        mine = statistics.median(ours[index] for ours, _ in times)
        other = statistics.median(theirs[index] for _, theirs in times)
        result[clock] = {
            "medimind_tokens_per_second": round(num_tokens / mine, 1),
            "transformers_tokens_per_second": round(num_tokens / other, 1),
            "ratio": round(statistics.median(t[index] / o[index] for o, t in times), 2),
        }
    return result


def timed(action: Callable[[], object]) -> tuple[float, float]:
    """Processor and wall seconds of an action."""
    processor, wall = time.process_time(), time.perf_counter()
    action()
    return time.process_time() - processor, time.perf_counter() - wall


if __name__ == "__main__":
    sys.exit(main())

"""Generation speed on this CPU: us and transformers' generate, in alternation on the same prompts.

    python benchmarks/cpu_generate.py                     # batch 8, 64 new tokens, 5 rounds
    python benchmarks/cpu_generate.py --batch-size 1 --rounds 9

Both generate greedily from SmolLM2-135M-Instruct in float32, from the same weights. Unless the
tokens are the same, nothing is timed. Seconds are processor time, which other programs on the
machine disturb less than wall time; both are printed.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers

from medimind.config import ModelConfig
from medimind.export import export_merged
from medimind.models.generate import generate
from medimind.models.load import load_model

QUESTIONS = (
    "A 54-year-old man has crushing chest pain that radiates to his left arm. What comes first?",
    "What is the capital of France?",
    "List five causes of iron deficiency in adults and the first test for each of them.",
    "Which antibiotics are safe for a urinary infection in the second trimester of pregnancy?",
    "Hello",
    "Explain to a patient in plain words why blood pressure tablets are taken every day.",
    "A child of three has barking cough and stridor at night. What is it, and what helps?",
    "How is hyperkalaemia of 7.1 mmol/l with ECG changes treated? Give the order of the steps.",
)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=None)
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    model = load_model(ModelConfig(path="smollm2-135m-instruct", quantization="none", device="cpu"))
    prompts = [
        model.tokenizer.encode(f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n")
        for q in (QUESTIONS * arguments.batch_size)[: arguments.batch_size]
    ]
    with tempfile.TemporaryDirectory() as folder:
        export_merged(model, Path(folder) / "model")
        peer = transformers.AutoModelForCausalLM.from_pretrained(
            Path(folder) / "model", dtype=torch.float32
        )
    columns = max(map(len, prompts))
    ids = torch.tensor([[0] * (columns - len(p)) + p for p in prompts])
    mask = torch.tensor([[0] * (columns - len(p)) + [1] * len(p) for p in prompts])

    def ours() -> list[list[int]]:
        found = generate(
            model, prompts, max_new_tokens=arguments.new_tokens, batch_size=len(prompts)
        )
        return [list(generation.token_ids) for generation in found]

    def theirs() -> list[list[int]]:
        out = peer.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=arguments.new_tokens,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=2,
        )
        rows = out[:, columns:].tolist()
        return [row[: row.index(2) + 1] if 2 in row else row for row in rows]

    tokens = ours()
    if tokens != theirs():
        print("the tokens differ: nothing is timed", file=sys.stderr)
        return 1
    rounds = [(timed(ours), timed(theirs)) for _ in range(arguments.rounds)]
    num_tokens = sum(map(len, tokens))
    result: dict[str, object] = {
        "batch_size": len(prompts),
        "tokens": num_tokens,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    for index, clock in enumerate(("processor", "wall")):
        mine = statistics.median(ours[index] for ours, _ in rounds)
        other = statistics.median(theirs[index] for _, theirs in rounds)
        result[clock] = {
            "medimind_tokens_per_second": round(num_tokens / mine, 1),
            "transformers_tokens_per_second": round(num_tokens / other, 1),
            "ratio": round(statistics.median(t[index] / o[index] for o, t in rounds), 2),
        }
    print(json.dumps(result, indent=2))
    return 0


def timed(action: Callable[[], object]) -> tuple[float, float]:
    """Processor and wall seconds of an action."""
    processor, wall = time.process_time(), time.perf_counter()
    action()
    return time.process_time() - processor, time.perf_counter() - wall


if __name__ == "__main__":
    sys.exit(main())

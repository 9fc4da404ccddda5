"""What reading prompts in fp8 changes in the answers of SmolLM2-135M-Instruct, on a CPU.

    python benchmarks/fp8_prompts.py [--prompts 40] [--new-tokens 32]

The arithmetic is that of the card, by the reference kernels: e4m3 with a scale for each row of both
factors. Everything else is float32, so that nothing but fp8 differs. For the questions of the
starter set: how often the likeliest first token is the same, the Kullback-Leibler divergence of the
first token's distribution, and how long greedy outputs stay the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import statistics
import sys
import time
from functools import partial
from pathlib import Path

import torch
from cpu_generate import ROOT, questions

from medimind.config import ModelConfig
from medimind.models import generate as generation
from medimind.models.generate import generate
from medimind.models.graph_decode import GraphDecoder
from medimind.models.load import Model, load_model
from medimind.models.reading import read_prompts


@torch.no_grad()
def first_logprobs(model: Model, card: GraphDecoder, prompts: list[list[int]]) -> torch.Tensor:
    """Log-probabilities (N, V) of the first token of each answer."""
    cache = card.new_cache([len(p) for p in prompts], capacity=max(map(len, prompts)))
    read = model.decoder.hidden_states
    if model.prompt_precision == "fp8":
        read = partial(card.fp8_prompts.hidden_states, adapter=False)
    hidden_ND = read_prompts(model.decoder, prompts, cache, read=read)
    return model.decoder.logits(hidden_ND).double().log_softmax(dim=-1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--new-tokens", type=int, default=32)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/fp8_prompts.json")
    options = parser.parse_args()
    exact = load_model(ModelConfig(path="smollm2-135m-instruct", quantization="nf4", device="cpu"))
    fp8 = dataclasses.replace(exact, prompt_precision="fp8")
    card = GraphDecoder(exact.decoder, graph=False)
    generation.graph_decoder = lambda decoder: card
    prompts = [
        exact.tokenizer.encode(f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n")
        for q in questions(options.prompts)
    ]
    divergences, same_first, same_lengths = [], 0, []
    for start in range(0, len(prompts), options.batch_size):
        batch = prompts[start : start + options.batch_size]
        plain_NV, fast_NV = (first_logprobs(model, card, batch) for model in (exact, fp8))
        divergences += (plain_NV.exp() * (plain_NV - fast_NV)).sum(dim=-1).tolist()
        same_first += int((plain_NV.argmax(-1) == fast_NV.argmax(-1)).sum())
        outputs = [
            generate(model, batch, max_new_tokens=options.new_tokens, batch_size=options.batch_size)
            for model in (exact, fp8)
        ]
        for one, other in zip(*outputs, strict=True):
            pairs = list(zip(one.token_ids, other.token_ids, strict=False))
            agree = next((i for i, (a, b) in enumerate(pairs) if a != b), len(pairs))
            same_lengths.append(agree / max(len(one.token_ids), len(other.token_ids)))
        print(f"{start + len(batch)} prompts, {same_first} first tokens the same", flush=True)
    report = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "model": f"{exact.name}, nf4, float32",
        "prompts": len(prompts),
        "prompt_tokens": sum(map(len, prompts)),
        "same_first_token": same_first,
        "kl_divergence_nats_mean": round(statistics.mean(divergences), 5),
        "kl_divergence_nats_max": round(max(divergences), 5),
        "new_tokens": options.new_tokens,
        "same_outputs": sum(share == 1 for share in same_lengths),
        "mean_share_before_the_first_difference": round(statistics.mean(same_lengths), 3),
    }
    text = json.dumps(report, indent=2)
    options.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

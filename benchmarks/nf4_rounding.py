"""What rounding the factors of NF4 weights changes: SmolLM2-135M-Instruct, on a CPU.

    python benchmarks/nf4_rounding.py [--prompts 40]

NF4 weights are code x scale. Dense copies round the product to bf16 once; products over units
(``kernels/nf4_linear/hopper.py``) round code, scale and product. Everything else is float32. For
the questions of the starter set, both beside NF4 in float32: how often the likeliest first token is
the same, and the Kullback-Leibler divergence of the first token's distribution.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from cpu_generate import ROOT, questions

from medimind.config import ModelConfig
from medimind.kernels.nf4 import Nf4Weight, dequantize_nf4, quantize_nf4
from medimind.kernels.nf4.codes import nf4_code
from medimind.kernels.nf4.dequantize import dequantize_absmax
from medimind.models.load import Model, load_model
from medimind.models.reading import new_cache, read_prompts


def once(weight: Nf4Weight) -> torch.Tensor:
    """As dense copies hold it."""
    return dequantize_nf4(weight, dtype=torch.bfloat16)


def thrice(weight: Nf4Weight) -> torch.Tensor:
    """As products over units see it."""
    packed = weight.packed_P.view(-1)
    codes = torch.stack((packed >> 4, packed & 15), dim=-1).view(-1, weight.block_size)
    scales = dequantize_absmax(weight).view(-1, 1).to(torch.bfloat16)
    return (nf4_code(codes.device).to(torch.bfloat16)[codes.long()] * scales).view(weight.shape)


@torch.no_grad()
def first_logprobs(model: Model, prompts: list[list[int]]) -> torch.Tensor:
    """Log-probabilities (N, V) of the first token of each answer."""
    lengths = [len(prompt) for prompt in prompts]
    cache = new_cache(model.decoder, lengths, capacity=max(lengths))
    hidden_ND = read_prompts(model.decoder, prompts, cache)
    return model.decoder.logits(hidden_ND).double().log_softmax(dim=-1)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=40)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/nf4_rounding.json")
    options = parser.parse_args()
    model = load_model(ModelConfig(path="smollm2-135m-instruct", quantization="none", device="cpu"))
    prompts = [
        model.tokenizer.encode(f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n")
        for q in questions(options.prompts)
    ]
    weights = {n: quantize_nf4(p.dense()) for n, p in model.decoder.projections()}

    def logprobs(rounded: Callable[[Nf4Weight], torch.Tensor]) -> torch.Tensor:
        for name, projection in model.decoder.projections():
            assert projection.weight is not None
            projection.weight.data.copy_(rounded(weights[name]))
        batches = [prompts[i : i + 8] for i in range(0, len(prompts), 8)]
        return torch.cat([first_logprobs(model, batch) for batch in batches])

    exact_NV = logprobs(lambda weight: dequantize_nf4(weight, dtype=torch.float32))
    report: dict[str, object] = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "model": f"{model.name}, nf4, float32",
        "prompts": len(prompts),
    }
    for rounded in (once, thrice):
        found_NV = logprobs(rounded)
        kl_N = (exact_NV.exp() * (exact_NV - found_NV)).sum(dim=-1).tolist()
        report[f"rounded_{rounded.__name__}"] = {
            "same_first_token": int((exact_NV.argmax(-1) == found_NV.argmax(-1)).sum()),
            "kl_divergence_nats_mean": float(f"{statistics.mean(kl_N):.3g}"),
            "kl_divergence_nats_max": float(f"{max(kl_N):.3g}"),
        }
    text = json.dumps(report, indent=2)
    options.out.write_text(text + "\n", encoding="utf-8")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())

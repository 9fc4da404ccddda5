"""Greedy outputs of us and of transformers in float32 on this CPU, compared token by token.

    python benchmarks/cpu_same_tokens.py              # 100 prompts, 64 new tokens, batches of 8
    python benchmarks/cpu_same_tokens.py --threads 1

Both answer questions of the starter set from the same weights (SmolLM2-135M-Instruct). Each
finished batch is written to the report, and a later run of the same settings goes on after it.
Where outputs part, transformers' own model in float64, without padding, tells how far apart the two
tokens are.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path

import torch
import transformers
from cpu_generate import ROOT, Engines, engines


@torch.no_grad()
def difference(both: Engines, prompt: list[int], mine: list[int], other: list[int]) -> dict:
    """Where two outputs part, and the logits of both tokens there in float64."""
    pairs = enumerate(zip(mine, other, strict=False))
    at = next((i for i, (a, b) in pairs if a != b), min(len(mine), len(other)))
    if at == min(len(mine), len(other)):
        return {"token": at, "reason": f"lengths {len(mine)} and {len(other)}"}
    both.peer.double()
    logits_V = both.peer(torch.tensor([prompt + mine[:at]])).logits[0, -1]
    both.peer.float()
    highest = logits_V.topk(2).values
    return {
        "token": at,
        "medimind": mine[at],
        "transformers": other[at],
        "logit_of_medimind": float(logits_V[mine[at]]),
        "logit_of_transformers": float(logits_V[other[at]]),
        "highest_logits": highest.tolist(),
    }


def compare(both: Engines, prompts: list[list[int]], report: dict, *, size: int, out: Path) -> None:
    """Fill ``report["items"]``, batch by batch."""
    items = report["items"]
    for first in range(len(items), len(prompts), size):
        batch = prompts[first : first + size]
        outputs = zip(batch, both.ours(batch), both.theirs(batch), strict=True)
        for prompt, mine, other in outputs:
            item: dict = {"prompt_tokens": len(prompt), "tokens": len(other), "same": mine == other}
            if mine != other:
                item["difference"] = difference(both, prompt, mine, other)
            items.append(item)
        report["prompts"] = len(items)
        report["tokens"] = sum(item["tokens"] for item in items)
        report["same"] = sum(item["same"] for item in items)
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
        print(f"{report['same']} of {len(items)} outputs are the same", flush=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--prompts", type=int, default=100)
    parser.add_argument("--new-tokens", type=int, default=64)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--threads", type=int)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks/results/cpu_same_tokens.json"
    )
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    settings = {
        "model": "smollm2-135m-instruct, float32",
        "batch_size": options.batch_size,
        "new_tokens": options.new_tokens,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }
    report = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "settings": settings,
        "items": [],
    }
    if options.out.exists():
        before = json.loads(options.out.read_text("utf-8"))
        if before["settings"] == settings:
            report = before
    both = engines(options.new_tokens)
    compare(both, both.prompts(options.prompts), report, size=options.batch_size, out=options.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Seconds and memory from a folder of safetensors to an NF4 model with an adapter, on a card.

    python benchmarks/gpu_load.py {medimind,unsloth} FOLDER

Imports and the start of CUDA come before the clock. The answer is one line of JSON.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
GIB = 1 << 30


def load_medimind(folder: str) -> object:
    from medimind.config.model import ModelConfig
    from medimind.models.load import load_model
    from medimind.models.lora import attach_lora

    yield
    model = load_model(ModelConfig(path=folder, device="cuda", dtype="bfloat16"))
    attach_lora(model.decoder, rank=16, alpha=16, seed=1)
    yield model


def load_unsloth(folder: str) -> object:
    sys.path.insert(0, os.path.dirname(__file__))  # noqa: PTH120
    import unsloth  # noqa: F401
    from gpu_peers import load_unsloth as peer

    yield
    yield peer(folder)


def main() -> None:
    side, folder = sys.argv[1:]
    began = time.perf_counter()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch

    steps = {"medimind": load_medimind, "unsloth": load_unsloth}[side](folder)
    next(steps)
    torch.zeros(1, device="cuda")
    torch.cuda.reset_peak_memory_stats()
    imported, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = next(steps)
    torch.cuda.synchronize()
    done = time.perf_counter()
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer = {
        "side": side,
        "seconds": round(done - imported, 2),
        "seconds_of_imports": round(imported - began, 2),
        "peak_gib": round(torch.cuda.max_memory_allocated() / GIB, 2),
        "reserved_gib": round(torch.cuda.max_memory_reserved() / GIB, 2),
        "host_peak_added_gib": round((after - before) / (1 << 20), 2),
    }
    del model
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

"""Seconds and memory from a folder of safetensors to an NF4 model with an adapter, on a card.

    python benchmarks/gpu_load.py {medimind,unsloth} FOLDER [--step | --wait]

Imports and the start of CUDA come before the clock. The answer is one line of JSON. With ``--wait``
loading begins when a line comes on stdin, so that imports can be done while others measure. With
``--step`` (ours alone) a training step of 2 x 2048 tokens follows, its kernels compiled anew; the
seconds from the start of this process to its end are told too.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import tempfile
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("UNSLOTH_DISABLE_STATISTICS", "1")
GIB = 1 << 30


def load_medimind(folder: str) -> object:
    from medimind.config.model import ModelConfig
    from medimind.models.load import load_model
    from medimind.models.lora import attach_lora

    yield
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = load_model(ModelConfig(path=folder, device=device, dtype="bfloat16"))
    attach_lora(model.decoder, rank=16, alpha=16, seed=1)
    yield model


def first_step(model: object) -> dict:
    """A training step by the plan for this card, with an empty cache of compiled kernels."""
    import torch
    from gpu_trainer import random_batch

    from medimind.models.fused import training_loss
    from medimind.models.lora import lora_parameters
    from medimind.training.loss_scale import initial_loss_scale
    from medimind.training.optimizer import make_optimizer
    from medimind.training.step import take_step

    begun, decoder = time.perf_counter(), model.decoder
    parameters = lora_parameters(decoder)
    loss = training_loss(decoder, num_tokens=4096)
    kinds = {"betas": (0.9, 0.999), "epsilon": 1e-8, "weight_decay": 0.0}
    done = take_step(
        [random_batch([2048, 2048], decoder.architecture.vocab_size, seed=1)],
        step=1,
        seed=0,
        loss_sum=lambda batch, seed: loss(batch),
        parameters=list(parameters.values()),
        optimizer=make_optimizer(parameters, name="adamw", **kinds),
        learning_rate=1e-4,
        max_gradient_norm=1.0,
        loss_scale=initial_loss_scale(is_float16=False),
    )
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return {"seconds_of_first_step": round(time.perf_counter() - begun, 2), "loss": done.loss}


def load_unsloth(folder: str) -> object:
    sys.path.insert(0, os.path.dirname(__file__))  # noqa: PTH120
    import unsloth  # noqa: F401
    from gpu_peers import load_unsloth as peer

    yield
    yield peer(folder)


def main() -> None:
    side, folder, *more = sys.argv[1:]
    began = time.perf_counter()
    if "--step" in more:
        os.environ["TRITON_CACHE_DIR"] = tempfile.mkdtemp()
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import torch

    card = torch.cuda if torch.cuda.is_available() else None
    steps = {"medimind": load_medimind, "unsloth": load_unsloth}[side](folder)
    next(steps)
    torch.zeros(1, device="cuda" if card else "cpu")
    imported = time.perf_counter()
    answer = {"side": side, "seconds_of_imports": round(imported - began, 2)}
    if "--wait" in more:
        del answer["seconds_of_imports"]  # others had the machine meanwhile
        sys.stdin.readline()
    if card:
        card.reset_peak_memory_stats()
    imported, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    model = next(steps)
    if card:
        card.synchronize()
    seconds = time.perf_counter() - imported
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    answer |= {
        "seconds": round(seconds, 2),
        "peak_gib": round(card.max_memory_allocated() / GIB, 2) if card else None,
        "reserved_gib": round(card.max_memory_reserved() / GIB, 2) if card else None,
        "host_peak_added_gib": round((after - before) / (1 << 20), 2),
    }
    if "--step" in more:
        answer |= first_step(model)
        answer["seconds_from_process_start"] = round(time.perf_counter() - began, 2)
    print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main()

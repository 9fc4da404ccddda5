"""Training step of an 8B on one card: correctness first, then us and the peers in alternation.

    python benchmarks/gpu_step.py                                   # everything
    python benchmarks/gpu_step.py --skip-peers --settings 2x2048:free

It refuses to time anything unless all tests of the gpu tier pass. The work is the same for all:
the shape of DeepSeek-R1-Distill-Llama-8B with random weights, NF4 double-quantised, LoRA r=16 on
all seven projections, AdamW, random tokens with a label at every position, full sequences.

A setting is BATCHxSEQUENCE:POLICY; policies are ``free`` (memory is no matter), ``cheap`` (cheap
operations again), ``lean`` (layers again, weights dequantised each time).
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch

from medimind.models.architecture import Architecture
from medimind.models.decoder import Decoder
from medimind.models.fused import FusedStep
from medimind.models.fused.step import StepPlan
from medimind.models.lora import attach_lora
from medimind.models.rope import RopeScaling

ROOT = Path(__file__).resolve().parents[1]
GIB = 1 << 30
R1_LLAMA_8B = Architecture(
    family="llama",
    vocab_size=128_256,
    hidden_size=4096,
    intermediate_size=14_336,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    rms_norm_epsilon=1e-5,
    rope_theta=500_000.0,
    rope_scaling=RopeScaling("llama3", factor=8.0),
    max_positions=131_072,
)
PLANS = {
    "free": StepPlan(keep="everything", resident=True),
    "packed": StepPlan(keep="everything", resident=False),
    "cheap": StepPlan(keep="cheap", resident=True),
    "lean": StepPlan(keep="inputs", resident=False, head_chunk=512),
}


@torch.no_grad()
def make_decoder(architecture: Architecture, *, dtype: torch.dtype = torch.bfloat16) -> Decoder:
    """A decoder with random weights in NF4, quantised layer by layer, with a fresh adapter."""
    torch.manual_seed(0)
    decoder = Decoder(architecture, dtype=dtype, device="cuda", allocate_layers=False)
    for name in ("embed_tokens", "norm"):
        _randomise(getattr(decoder.model, name))
    if not architecture.tied_head:
        _randomise(decoder.lm_head)
    for index in range(architecture.num_layers):
        layer = decoder.allocate_layer(index)
        _randomise(layer)
        layer.quantize_nf4()
    attach_lora(decoder, rank=16, alpha=16, seed=3407)
    return decoder


def _randomise(module: torch.nn.Module) -> None:
    for parameter in module.parameters():
        if parameter.dim() == 1:
            parameter.fill_(1.0)
        else:
            parameter.normal_(std=0.02)


def random_batch(
    batch: int, sequence: int, vocab: int
) -> tuple[torch.Tensor, torch.Tensor, np.ndarray, list[int]]:
    """Tokens, positions, labels at every position, and the offsets of the sequences."""
    tokens = torch.randint(0, vocab, (batch * sequence,))
    positions = torch.arange(sequence).repeat(batch)
    labels = torch.roll(tokens, -1).numpy()
    return tokens, positions, labels, [sequence * i for i in range(batch + 1)]


class OurStep:
    """Forward, backward and update, as training does them."""

    def __init__(self, decoder: Decoder, batch: int, sequence: int, plan: StepPlan) -> None:
        self.batch, self.sequence = batch, sequence
        self.vocab = decoder.architecture.vocab_size
        self.step = FusedStep(decoder, num_tokens=batch * sequence, plan=plan)
        flat = torch.nn.Parameter(self.step.adapters.values)
        flat.grad = self.step.adapters.grads
        self.optimizer = torch.optim.AdamW([flat], lr=2e-4, fused=True)

    def __call__(self) -> torch.Tensor:
        """One optimizer step on fresh random tokens; the mean loss."""
        tokens, positions, labels, offsets = random_batch(self.batch, self.sequence, self.vocab)
        self.step.zero_gradients()
        loss = self.step.run(tokens, positions, labels, cu_seqlens=offsets)
        self.step.adapters.grads.mul_(1.0 / len(labels))
        self.optimizer.step()
        self.step.refresh()
        return loss / len(labels)


def time_step(step: OurStep, *, warm_up: int = 4, repeats: int = 10) -> dict[str, float]:
    """Median seconds of a step with a synchronisation after each, as the peers are timed."""
    times, loss = [], torch.zeros(())
    for index in range(warm_up + repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        loss = step()
        torch.cuda.synchronize()
        if index >= warm_up:
            times.append(time.perf_counter() - start)
    seconds = statistics.median(times)
    return {
        "seconds": round(seconds, 5),
        "tokens_per_second": round(step.batch * step.sequence / seconds),
        "peak_memory_gib": round(torch.cuda.max_memory_allocated() / GIB, 2),
        "reserved_gib": round(torch.cuda.max_memory_reserved() / GIB, 2),
        "loss": round(float(loss), 4),
        "spread": round((max(times) - min(times)) / seconds, 4),
    }


def run_tests() -> bool:
    """All tests of the gpu tier; nothing is timed when one fails."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    paths = ["tests/kernels", "tests/unit/models/test_fused_step.py"]
    return subprocess.run([*command, *paths], cwd=ROOT, check=False).returncode == 0

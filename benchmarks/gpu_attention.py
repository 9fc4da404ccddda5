"""Attention's backends side by side on one Hopper: kernels, then whole steps of the 8B.

    python benchmarks/gpu_attention.py            # everything, about two minutes
    python benchmarks/gpu_attention.py --no-steps # kernels alone

It refuses to time anything unless the card's tests of attention and of the fused step pass. Kernels
are captured in graphs, forward and backward apart, and replayed in turns; q, k and v are views of
one buffer, as in a step. Steps are timed with and without FlashAttention-4, in turns.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import accumulate, product
from pathlib import Path
from unittest import mock

import numpy as np
import torch
from gpu_step import make_decoder
from gpu_tests import run_card_tests

from medimind.kernels.attention.backward import attention_backward
from medimind.kernels.attention.forward import Backend, Segments, attention_forward, length_by_token
from medimind.kernels.availability import has_flash4
from medimind.models.fused import FusedStep, StepPlan
from medimind.models.shape import R1_DISTILL_LLAMA_8B

RESULTS = Path(__file__).parent / "results/gpu_attention.json"
TESTS = (
    "tests/kernels/test_attention.py",
    "tests/kernels/test_footprint.py",
    "tests/unit/models/test_fused_step.py",
)
JOB = [300, 480, 610, 700, 777, 890, 1030, 1400]
"""Eight rows as the story's job has them: 6,187 tokens."""
SHAPES = {
    "2 x 2048": [2048] * 2,
    "4 x 1024": [1024] * 4,
    "12 x 512": [512] * 12,
    "1 x 8192": [8192],
    "job": JOB,
    "eight of 577 to 1,127": [577, 640, 700, 757, 790, 796, 800, 1127],
    "four of 1,300 to 1,900": [1300, 1500, 1700, 1900],
    "1,796 and 2,300": [1796, 2300],
}
HEADS = {"32 / 8 heads of 128": (32, 8, 128), "32 / 8 heads of 64": (32, 8, 64)}
NARROW = ("2 x 2048", "12 x 512", "job", "1,796 and 2,300")
"""Rows that heads of 64 are timed with."""
STEPS = {
    "2 x 2048": ([2048] * 2, StepPlan()),
    "job": (JOB, StepPlan(graph=False)),
    "1,796 and 2,300": ([1796, 2300], StepPlan(graph=False)),
}
_INNER = 6
"""Calls in a graph, over two sets of inputs."""


def main() -> int:
    """Run what is asked for and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--no-steps", action="store_true", help="kernels alone")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    tests = run_card_tests(TESTS)
    if tests is None:
        return 1
    found: dict = {
        "device": torch.cuda.get_device_name(),
        "versions": _versions(),
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "tests": tests,
        "kernels": [],
        "steps": [],
    }
    for heads in HEADS:
        for shape in SHAPES if HEADS[heads][2] == 128 else NARROW:
            found["kernels"] += time_kernels(shape, heads, rounds=options.rounds)
            _publish(found)
    if not options.no_steps:
        decoder = make_decoder(R1_DISTILL_LLAMA_8B)
        for name, (lengths, plan) in STEPS.items():
            gc.collect()
            torch.cuda.empty_cache()
            step = FusedStep(decoder, num_tokens=sum(lengths), plan=plan)
            found["steps"].append({"rows": name} | time_steps(step, lengths))
            print(json.dumps(found["steps"][-1]), flush=True)
            _publish(found)
            del step
    return 0


def _versions() -> dict[str, str]:
    names = ["torch", "triton", "nvidia-cutlass-dsl"] + ["flash-attn-4"] * has_flash4()
    installed = {d.metadata["Name"]: d.version for d in importlib.metadata.distributions()}
    return {name: installed[name] for name in names if name in installed}


def _publish(found: dict) -> None:
    RESULTS.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


def _ways(lengths: list[int]) -> dict[str, tuple[Backend, int | None]]:
    """Backends that can do it, and the number of segments where they are told of one length."""
    equal = len(lengths) if len(set(lengths)) == 1 else None
    ways: dict[str, tuple[Backend, int | None]] = {"tiled": ("tiled", None)}
    if equal:
        ways["cudnn"] = ("cudnn", equal)
    else:
        ways["flash"] = ("flash", None)
    if has_flash4():
        ways["flash4"] = ("flash4", equal)
        ways["flash4, any order"] = ("flash4_loose", equal)
    return ways


def time_kernels(shape: str, heads: str, *, rounds: int) -> list[dict]:
    """Microseconds of each backend's forward and backward pass, medians of the rounds."""
    lengths, (query, keys, width) = SHAPES[shape], HEADS[heads]
    tokens, ends = sum(lengths), [0, *accumulate(lengths)]
    inputs = []
    for _ in range(2):
        qkv = torch.randn(tokens, query + 2 * keys, width, device="cuda", dtype=torch.bfloat16)
        grad = torch.randn(tokens, query, width, device="cuda", dtype=torch.bfloat16)
        inputs.append((grad, *qkv.split([query, keys, keys], dim=1)))
    graphs, kept = {}, []
    for name, (backend, equal) in _ways(lengths).items():
        offsets = torch.tensor(ends, dtype=torch.int32, device="cuda")
        segments = Segments(offsets, max(lengths), equal, tuple(ends))

        def forward(index: int, backend: Backend = backend, segments: Segments = segments):
            return attention_forward(*inputs[index][1:], segments, backend=backend)

        saved = [forward(index) for index in range(2)]
        kept.append(saved)  # a graph reads them

        def backward(
            index: int,
            backend: Backend = backend,
            segments: Segments = segments,
            saved: list = saved,
        ):
            out, rest = saved[index]
            return attention_backward(*inputs[index], out, rest, segments, backend=backend)

        graphs[name] = (_capture(forward), _capture(backward))
    times: dict = {name: ([], []) for name in graphs}
    for index in range(rounds + 1):
        for name, pair in graphs.items():
            for graph, taken in zip(pair, times[name], strict=True):
                microseconds = _replay(graph)
                if index:
                    taken.append(microseconds)
    flops = sum(n * n for n in lengths) * 2 * width * query  # half of the square
    rows = []
    for name, (forward_us, backward_us) in times.items():
        there, back = statistics.median(forward_us), statistics.median(backward_us)
        row = {"heads": heads, "rows": shape, "mean_length": round(length_by_token(lengths))}
        row |= {"backend": name, "forward_us": round(there, 1), "backward_us": round(back, 1)}
        spread = max((max(t) - min(t)) / statistics.median(t) for t in (forward_us, backward_us))
        row |= {"backward_tflops": round(2.5 * flops / back / 1e6), "spread": round(spread, 3)}
        print(f"{heads}, {shape:24} {name:20} {there:7.1f} {back:7.1f} {there + back:7.1f} us")
        rows.append(row)
    return rows


def _capture(call: Callable[[int], object]) -> torch.cuda.CUDAGraph:
    call(0)
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call(1)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, stream=stream):
        for index in range(_INNER):
            call(index % 2)
    return graph


def _replay(graph: torch.cuda.CUDAGraph) -> float:
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    begin.record()
    graph.replay()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) * 1e3 / _INNER


def time_steps(step: FusedStep, lengths: list[int], *, rounds: int = 2, repeats: int = 5) -> dict:
    """Milliseconds of forward and backward pass, in turns.

    With and without FlashAttention-4, in a fixed order of sums and in any.
    """
    total, vocab = sum(lengths), step.decoder.architecture.vocab_size
    tokens = torch.randint(0, vocab, (total,), generator=torch.Generator().manual_seed(0))
    positions = torch.cat([torch.arange(n) for n in lengths])
    labels, ends = np.roll(tokens.numpy(), -1), [0, *accumulate(lengths)]
    row: dict = {"tokens": total, "mean_length": round(length_by_token(lengths))}
    times: dict[str, list[float]] = {}
    for _, fixed, flash4 in product(range(rounds), (True, False), (False, True)):
        with mock.patch(
            "medimind.kernels.attention.forward.has_flash4", return_value=flash4 and has_flash4()
        ):
            step.plan = replace(step.plan, deterministic=fixed)
            step._segments = (0, ())  # so that the backend is chosen anew
            gradients, taken = [], []
            for _ in range(2 + repeats):
                step.zero_gradients()
                torch.cuda.synchronize()
                start = time.perf_counter()
                loss = step.run(tokens, positions, labels, cu_seqlens=ends)
                torch.cuda.synchronize()
                taken.append(1e3 * (time.perf_counter() - start))
                gradients.append(step.adapters.grads.clone())
        name = f"{'fixed' if fixed else 'any'} order, {'with' if flash4 else 'without'}"
        times.setdefault(name, []).extend(taken[2:])
        row[name] = {
            "backend": step.math.backend,
            "milliseconds": round(statistics.median(times[name]), 2),
            "same_bits": all(torch.equal(gradients[0], other) for other in gradients),
            "loss": round(float(loss) / total, 5),
        }
    return row


if __name__ == "__main__":
    sys.exit(main())

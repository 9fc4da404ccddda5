"""Training step of an 8B on one card: correctness first, then us and the peers in alternation.

    python benchmarks/gpu_step.py                                   # everything
    python benchmarks/gpu_step.py --peers --settings 2x2048:free    # ours alone
    python benchmarks/gpu_step.py --settings 1x8192:lean --add      # in a call of its own

It refuses to time anything unless all tests of the gpu tier pass. The work is the same for all:
the shape of DeepSeek-R1-Distill-Llama-8B with random weights, NF4 double-quantised, LoRA r=16 on
all seven projections, AdamW, random tokens with a label at every position, full sequences.

A setting is BATCHxSEQUENCE:POLICY; policies are ``free`` (memory is no matter), ``cheap`` (cheap
operations again), ``lean`` (MLPs again, the rest in host memory, weights dequantised each time),
``fp8`` (memory is no matter, frozen products in fp8), ``fixed`` (as free, the same bits each time).
All but the last have ``train.deterministic: false``: rows of one length take cuDNN's attention,
whose gradients are summed in any order, as the peers' are.
"""

from __future__ import annotations

import argparse
import gc
import importlib.metadata
import importlib.util
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from gpu_job import compare_job
from gpu_tests import card_tests

from medimind.models.architecture import Architecture
from medimind.models.decoder import Decoder
from medimind.models.fused import FusedStep, StepPlan
from medimind.models.lora import attach_lora
from medimind.models.shape import R1_DISTILL_LLAMA_8B

ROOT = Path(__file__).resolve().parents[1]
GIB = 1 << 30
PLANS = {
    "free": StepPlan(keep="everything", resident=True, deterministic=False),
    "fixed": StepPlan(keep="everything", resident=True),
    "packed": StepPlan(keep="everything", resident=False, deterministic=False),
    "cheap": StepPlan(keep="cheap", resident=True, deterministic=False),
    "fp8": StepPlan(keep="everything", fp8=True, deterministic=False),
    "lean": StepPlan(
        deterministic=False,
        keep="inputs",
        resident=False,
        offload=True,
        offload_projections=True,
        host_embedding=True,
        head_chunk=1024,
    ),
}
SETTINGS = (
    "2x2048:free",
    "2x2048:fp8",
    "2x2048:fixed",
    "2x2048:lean",
    "1x8192:lean",
    "1x1024:free",
)


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


RandomBatch = tuple[torch.Tensor, torch.Tensor, np.ndarray, list[int]]


def random_batch(batch: int, sequence: int, vocab: int) -> RandomBatch:
    """Tokens, positions, labels at every position, and the offsets of the sequences."""
    tokens = torch.randint(0, vocab, (batch * sequence,))
    positions = torch.arange(sequence).repeat(batch)
    labels = torch.roll(tokens, -1).numpy()
    return tokens, positions, labels, [sequence * i for i in range(batch + 1)]


def _optimizer(flat: torch.nn.Parameter, *, small: bool) -> torch.optim.Optimizer:
    """AdamW; in 8 bits, as the peers have it, where memory counts and the library is there."""
    if small and importlib.util.find_spec("bitsandbytes"):
        import bitsandbytes

        return bitsandbytes.optim.AdamW8bit([flat], lr=2e-4)
    return torch.optim.AdamW([flat], lr=2e-4, fused=True)


class OurStep:
    """Forward, backward and update, as training does them."""

    def __init__(self, decoder: Decoder, batch: int, sequence: int, plan: StepPlan) -> None:
        self.batch, self.sequence = batch, sequence
        self.vocab = decoder.architecture.vocab_size
        self.step = FusedStep(decoder, num_tokens=batch * sequence, plan=plan)
        flat = torch.nn.Parameter(self.step.adapters.values)
        flat.grad = self.step.adapters.grads
        self.optimizer = _optimizer(flat, small=plan.offload)

    def draw(self) -> RandomBatch:
        """Fresh random tokens, with a label at every position."""
        return random_batch(self.batch, self.sequence, self.vocab)

    def __call__(self, drawn: RandomBatch) -> torch.Tensor:
        """One optimizer step; the mean loss."""
        tokens, positions, labels, offsets = drawn
        self.step.zero_gradients()
        loss = self.step.run(tokens, positions, labels, cu_seqlens=offsets)
        self.step.adapters.grads.mul_(1.0 / len(labels))
        self.optimizer.step()
        self.step.refresh()
        return loss / len(labels)


def time_step(step: OurStep, *, warm_up: int = 3, repeats: int = 8) -> dict[str, float]:
    """Median seconds of a step with a synchronisation after each, as the peers are timed.

    Tokens are drawn before the clock starts, as theirs are; ours still have to travel to the card.
    """
    times, loss = [], torch.zeros(())
    for index in range(warm_up + repeats):
        drawn = step.draw()
        torch.cuda.synchronize()
        start = time.perf_counter()
        loss = step(drawn)
        torch.cuda.synchronize()
        if index >= warm_up:
            times.append(time.perf_counter() - start)
    seconds = statistics.median(times)
    return {
        "seconds": round(seconds, 5),
        "tokens_per_second": round(step.batch * step.sequence / seconds),
        "peak_memory_gib": round(torch.cuda.max_memory_allocated() / GIB, 2),
        "loss": round(float(loss), 4),
        "spread": round((max(times) - min(times)) / seconds, 4),
    }


def gemm_ceiling(num_tokens: int) -> float:
    """Tokens per second if a step were the base GEMMs alone, forward and input gradient, bf16."""
    shapes = [(4096, 6144), (4096, 4096), (4096, 28_672), (14_336, 4096)]
    total = 32 * sum(_gemm(num_tokens, i, o) + _gemm(num_tokens, o, i) for i, o in shapes)
    rows = min(num_tokens, 2048)
    head = _gemm(rows, 4096, 128_256) + _gemm(rows, 128_256, 4096)
    return num_tokens / (total + head * num_tokens / rows)


def _gemm(rows: int, inner: int, columns: int, *, repeats: int = 10) -> float:
    left = torch.randn(rows, inner, device="cuda", dtype=torch.bfloat16)
    right = torch.randn(columns, inner, device="cuda", dtype=torch.bfloat16)
    for _ in range(3):
        left @ right.t()
    start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    start.record()
    for _ in range(repeats):
        left @ right.t()
    end.record()
    torch.cuda.synchronize()
    return start.elapsed_time(end) / repeats / 1e3


class Peer:
    """A worker process of ``gpu_peers.py``."""

    def __init__(self, framework: str, checkpoint: Path) -> None:
        self.framework = framework
        command = [sys.executable, str(ROOT / "benchmarks/gpu_peers.py"), framework]
        log = (Path(tempfile.gettempdir()) / f"{framework}.log").open("w")
        self.process = subprocess.Popen(
            [*command, str(checkpoint)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
        )
        self.ready: dict | None = None

    def ask(self, batch: int, sequence: int, *, checkpointing: bool, repeats: int) -> dict:
        """Time the peer's step."""
        if self.ready is None:
            self.ready = self._read()
        if "error" in self.ready:
            return self.ready
        request = {
            "batch": batch,
            "sequence": sequence,
            "checkpointing": checkpointing,
            "repeats": repeats,
        }
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps(request) + "\n")
        self.process.stdin.flush()
        return self._read()

    def ask_job(self, steps: list[list[list[int]]]) -> dict:
        """Time steps over micro-batches of rows of these lengths, with checkpointing."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"job": steps, "checkpointing": True}) + "\n")
        self.process.stdin.flush()
        return self._read()

    def _read(self) -> dict:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        return json.loads(line) if line else {"error": f"{self.framework} ended, see its log"}

    def close(self) -> None:
        """End the worker."""
        if self.process.stdin is not None:
            self.process.stdin.close()
        self.process.wait(timeout=60)


def compare(decoder: Decoder, setting: str, peers: list[Peer], *, rounds: int) -> dict:
    """One setting: us and each peer in turn, ``rounds`` times; medians of the rounds."""
    shape, policy = setting.split(":")
    batch, sequence = (int(number) for number in shape.split("x"))
    gc.collect()
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    start = time.perf_counter()
    step = OurStep(decoder, batch, sequence, PLANS[policy])
    float(step(step.draw()))
    first = time.perf_counter() - start
    results: dict[str, list[dict]] = {"medimind": []}
    for _ in range(rounds):
        results["medimind"].append(time_step(step))
        for peer in peers:
            small = policy == "lean" or shape == "1x1024"
            answer = peer.ask(batch, sequence, checkpointing=small, repeats=8)
            results.setdefault(peer.framework, []).append(answer)
    row: dict = {"setting": setting, "first_step_seconds": round(first, 1), "rounds": results}
    row["attention"] = step.step.math.backend
    speed = {
        name: statistics.median(r["tokens_per_second"] for r in found)
        for name, found in results.items()
        if all("tokens_per_second" in r for r in found)
    }
    row["tokens_per_second"] = speed
    row["peak_memory_gib"] = {
        name: max(r["peak_memory_gib"] for r in found)
        for name, found in results.items()
        if name in speed
    }
    row["ratio"] = {
        name: round(speed["medimind"] / value, 3)
        for name, value in speed.items()
        if name != "medimind"
    }
    return row


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--settings", nargs="+", default=list(SETTINGS))
    parser.add_argument("--peers", nargs="*", default=["unsloth"], help="unsloth, hf")
    parser.add_argument("--checkpoint", type=Path, default=Path("/tmp/random-8b"))
    parser.add_argument("--tokenizer", type=Path, help="folder for a new checkpoint")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--lengths", type=Path, help="JSON list of row lengths: time a real job")
    parser.add_argument("--job-steps", type=int, default=60)
    parser.add_argument("--job-policies", nargs="+", default=["free", "fp8"])
    parser.add_argument("--skip-tests", action="store_true")
    parser.add_argument("--add", action="store_true", help="keep the other rows of the result")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/gpu_step.json")
    options = parser.parse_args()
    if options.peers and not options.checkpoint.exists():
        command = [sys.executable, str(ROOT / "benchmarks/gpu_peers.py"), "make"]
        subprocess.run([*command, str(options.checkpoint), str(options.tokenizer)], check=True)
    peers = [Peer(name, options.checkpoint) for name in options.peers]  # load while tests run
    tests = "skipped" if options.skip_tests else card_tests()
    if tests is None:
        for peer in peers:
            peer.close()
        return 1
    os.environ["TRITON_CACHE_DIR"] = tempfile.mkdtemp()  # the first step is a cold one
    decoder = make_decoder(R1_DISTILL_LLAMA_8B)
    report = _begin(options, tests)
    lengths = json.loads(options.lengths.read_text()) if options.lengths else []
    job_after = min(2, len(options.settings))  # the lean ones move the embedding to the host
    for number, setting in enumerate(options.settings, start=1):
        row = compare(decoder, setting, peers, rounds=options.rounds)
        tokens = int(np.prod([int(n) for n in setting.split(":")[0].split("x")]))
        row["gemm_ceiling_tokens_per_second"] = round(gemm_ceiling(tokens))
        ours = row["tokens_per_second"]["medimind"]
        row["share_of_gemm_ceiling"] = round(ours / row["gemm_ceiling_tokens_per_second"], 3)
        row["run"] = len(report["runs"]) - 1
        report["rows"] = [r for r in report["rows"] if r["setting"] != setting] + [row]
        print(json.dumps(row), flush=True)
        _write(options.out, report)
        if lengths and number == job_after:
            gc.collect()
            torch.cuda.empty_cache()
            chosen = lengths[: 8 * options.job_steps]

            def publish(job: dict) -> None:
                report["job"] = job | {"run": len(report["runs"]) - 1}
                print(json.dumps(job), flush=True)
                _write(options.out, report)

            plans = {policy: PLANS[policy] for policy in options.job_policies}
            compare_job(decoder, chosen, peers, plans=plans, publish=publish)
    for peer in peers:
        report[f"{peer.framework}_load"] = peer.ready
        peer.close()
    _write(options.out, report)
    print(table(report))
    return 0


def _begin(options: argparse.Namespace, tests: str) -> dict:
    """A new report, or with ``--add`` the one that is there; each row names the run it is from."""
    told = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "versions": _versions(),
    }
    report: dict = told | {"rows": []}
    if options.add:
        report = json.loads(options.out.read_text(encoding="utf-8"))
        if any(report[name] != value for name, value in told.items()):
            sys.exit(f"{options.out} is of another card or other versions: run without --add")
    run = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "tests": tests,
    }
    return report | {"runs": [*report.get("runs", []), run]}


def _versions() -> dict[str, str]:
    """Of all that takes part."""
    names = ("torch", "triton", "unsloth", "bitsandbytes", "transformers", "peft")
    return {n: importlib.metadata.version(n) for n in names if importlib.util.find_spec(n)}


def _write(path: Path, report: dict) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n")


def table(report: dict) -> str:
    """The figures as a Markdown table."""
    lines = [
        f"{report['device']}, torch {report['torch']}",
        "| setting | framework | tokens/s | peak GiB | we are | share of GEMM ceiling |",
        "|---|---|---|---|---|---|",
    ]
    for row in report["rows"]:
        for name, speed in row["tokens_per_second"].items():
            ratio = row["ratio"].get(name)
            share = row["share_of_gemm_ceiling"] if name == "medimind" else ""
            cells = [row["setting"], name, f"{speed:,.0f}", row["peak_memory_gib"][name]]
            cells += [f"{ratio:.2f} x" if ratio else "", share]
            lines.append("| " + " | ".join(str(cell) for cell in cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())

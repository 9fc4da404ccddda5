"""Generation of an 8B on one card: us and transformers in one run, greedy, all outputs full length.

    python benchmarks/gpu_generate.py --tokenizer FOLDER --checkpoint FOLDER [--skip-peers]

The shape of DeepSeek-R1-Distill-Llama-8B with random weights in NF4, prompts of 256 tokens, 128 new
ones; seconds from the prompts to the last token, reading of the prompts included. ``bandwidth`` is
what a step has to read (weights as they are held, keys and values in the middle of the output) over
the time of a step, as a share of the card's measured copy bandwidth. Tests of the generation on a
card run first; nothing is timed when one fails.
"""

from __future__ import annotations

import argparse
import contextlib
import dataclasses
import gc
import importlib.metadata
import importlib.util
import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

import torch
from gpu_step import make_decoder

from medimind.models.decoder import Decoder
from medimind.models.generate import generate
from medimind.models.graph_decode import GraphDecoder
from medimind.models.load import Model
from medimind.models.lora import adapter_disabled
from medimind.models.shape import R1_DISTILL_LLAMA_8B
from medimind.prompts.tokenizer import load_tokenizer

ROOT = Path(__file__).resolve().parents[1]
PROMPT, NEW = 256, 128
TESTS = (
    "tests/kernels/test_decode_attention.py",
    "tests/kernels/test_likeliest.py",
    "tests/kernels/test_nf4_linear.py",
    "tests/kernels/test_nf4_units.py",
    "tests/kernels/test_split_sums.py",
    "tests/unit/models/test_graph_decode.py",
)


def as_model(decoder: Decoder, tokenizer: Path) -> Model:
    """A model whose outputs never end by themselves."""
    return Model(
        decoder=decoder.eval(),
        tokenizer=load_tokenizer(tokenizer),
        architecture=decoder.architecture,
        dtype=decoder.dtype,
        device=decoder.device,
        name="random 8B",
        path=Path(),
        revision=None,
        sha256="",
        quantization="nf4",
        eos_ids=(),
    )


def prompts_of(batch: int) -> list[list[int]]:
    """Random tokens, the same for everybody."""
    generator = torch.Generator().manual_seed(batch)
    return torch.randint(0, 128_000, (batch, PROMPT), generator=generator).tolist()


def bytes_of_a_step(decoder: Decoder, batch: int) -> int:
    """Weights as generation reads them at this many rows, and keys and values halfway through."""
    a = decoder.architecture
    weights = sum(p.out_features * p.in_features for _, p in decoder.projections())
    held = decoder.generation.held if isinstance(decoder.generation, GraphDecoder) else "dense"
    # Codes, and a scale for each 64: fp32 for one row, bf16 in units.
    per_weight = 0.5 + 4 / 64 if batch == 1 else {"units": 0.5 + 2 / 64, "dense": 2}[held]
    cache = batch * (PROMPT + NEW / 2) * 2 * a.num_layers * a.num_kv_heads * a.head_dim * 2
    return round(weights * per_weight + decoder.head.nbytes + cache)


def ours(model: Model, batch: int, *, repeats: int, bandwidth: float) -> dict[str, float]:
    """Median seconds of a batch, and of its prompts alone."""
    prompts = prompts_of(batch)
    generate(model, prompts, max_new_tokens=4, batch_size=batch)
    times = {}
    for new in (NEW, 1):
        found = []
        for _ in range(repeats):
            torch.cuda.synchronize()
            start = time.perf_counter()
            out = generate(model, prompts, max_new_tokens=new, batch_size=batch)
            torch.cuda.synchronize()
            found.append(time.perf_counter() - start)
            assert all(len(o.token_ids) == new for o in out)
        times[new] = statistics.median(found)
    step = (times[NEW] - times[1]) / (NEW - 1)
    read = bytes_of_a_step(model.decoder, batch)
    return {
        "seconds": round(times[NEW], 3),
        "seconds_of_the_prompts": round(times[1], 3),
        "tokens_per_second": round(batch * NEW / times[NEW], 1),
        "milliseconds_of_a_step": round(1e3 * step, 2),
        "gigabytes_of_a_step": round(read / 1e9, 2),
        "bandwidth": round(read / step / bandwidth, 3),
        "peak_memory_gib": round(torch.cuda.max_memory_allocated() / (1 << 30), 1),
    }


def theirs(checkpoint: Path, batches: list[int], *, kinds: list[str]) -> list[dict]:
    """Outputs of the peer, transformers, in NF4 through bitsandbytes and in bf16."""
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    rows = []
    for kind in kinds:
        nf4 = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=torch.bfloat16,
        )
        model = AutoModelForCausalLM.from_pretrained(
            checkpoint,
            quantization_config=nf4 if kind == "nf4" else None,
            dtype=torch.bfloat16,
            device_map={"": 0},
            attn_implementation="sdpa",
        ).eval()
        for batch in batches:
            ids = torch.tensor(prompts_of(batch), device="cuda")
            options = {"do_sample": False, "pad_token_id": 0, "eos_token_id": None}
            with torch.inference_mode():
                model.generate(ids, max_new_tokens=4, **options)
                torch.cuda.synchronize()
                start = time.perf_counter()
                model.generate(ids, max_new_tokens=NEW, min_new_tokens=NEW, **options)
                torch.cuda.synchronize()
            seconds = time.perf_counter() - start
            rows.append(
                {
                    "kind": kind,
                    "batch": batch,
                    "seconds": round(seconds, 2),
                    "tokens_per_second": round(batch * NEW / seconds, 1),
                }
            )
            print(json.dumps(rows[-1]), flush=True)
        del model
        gc.collect()
        torch.cuda.empty_cache()
    return rows


def copy_bandwidth() -> float:
    """Bytes a second read and written by a copy on the card."""
    source = torch.empty(1 << 32, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    for _ in range(2):
        target.copy_(source)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(5):
        target.copy_(source)
    torch.cuda.synchronize()
    return 10 * source.numel() / (time.perf_counter() - start)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--checkpoint", type=Path, help="for the peers; made where it is missing")
    parser.add_argument("--batches", type=int, nargs="+", default=[128, 16, 1])
    parser.add_argument("--peer-batches", type=int, nargs="+", default=[128, 1])
    parser.add_argument("--kinds", nargs="+", default=["nf4", "bf16"])
    parser.add_argument("--skip-peers", action="store_true")
    parser.add_argument("--skip-tests", action="store_true")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/gpu_generate.json")
    options = parser.parse_args()
    maker = None
    if not options.skip_peers and not options.checkpoint.exists():
        command = [sys.executable, str(ROOT / "benchmarks/gpu_peers.py"), "make"]
        maker = subprocess.Popen([*command, str(options.checkpoint), str(options.tokenizer)])
    if not options.skip_tests and not tests_pass():
        print("tests of the generation fail: nothing is timed")
        return 1
    if maker is not None and maker.wait():
        print("the peers' checkpoint could not be made")
        return 1
    bandwidth = copy_bandwidth()
    torch.cuda.empty_cache()
    report = {
        "date": time.strftime("%Y-%m-%d"),
        "command": " ".join(["python", *sys.argv]),
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "triton": importlib.metadata.version("triton"),
        "tests": "skipped" if options.skip_tests else "all passed in this run",
        "copy_bandwidth_bytes_per_second": round(bandwidth),
        "medimind": all_of_ours(options.tokenizer, options.batches, bandwidth=bandwidth),
    }
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if not options.skip_peers:
        for name in ("transformers", "bitsandbytes"):
            report[f"{name}_version"] = importlib.metadata.version(name)
        report["transformers"] = theirs(
            options.checkpoint, options.peer_batches, kinds=options.kinds
        )
        options.out.write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    return 0


def tests_pass() -> bool:
    """Whether the tests of generation on a card pass."""
    command = [sys.executable, "-m", "pytest", "-q", "-m", "gpu", "-p", "no:cacheprovider"]
    if importlib.util.find_spec("xdist"):
        command += ["-n", "14", "-p", "no:benchmark"]
    return subprocess.run([*command, *TESTS], cwd=ROOT, check=False).returncode == 0


def all_of_ours(tokenizer: Path, batches: list[int], *, bandwidth: float) -> list[dict]:
    """A row for each setting: adapter off and on, and the largest batch with prompts in fp8."""
    decoder = make_decoder(R1_DISTILL_LLAMA_8B)
    model = as_model(decoder, tokenizer)
    settings = [("dtype", on, batch) for on in (False, True) for batch in batches]
    rows = []
    for precision, adapter, batch in [*settings, ("fp8", False, max(batches))]:
        asked = dataclasses.replace(model, prompt_precision=precision)
        off = contextlib.nullcontext() if adapter else adapter_disabled(decoder)
        with torch.no_grad(), off:
            row = ours(asked, batch, repeats=3, bandwidth=bandwidth)
        about = {"batch": batch, "adapter": adapter, "prompt_precision": precision}
        rows.append({**about, **row})
        print(json.dumps(rows[-1]), flush=True)
    decoder.generation = None
    return rows


if __name__ == "__main__":
    sys.exit(main())

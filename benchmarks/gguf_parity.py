r"""GGUF files beside those of llama.cpp's own converter and quantiser.

    pip download --no-deps --no-binary llama-cpp-python llama-cpp-python   # unpacked: the converter
    pip install --target peer --no-deps llama-cpp-py-sync cffi pycparser sentencepiece  # quantiser
    python benchmarks/gguf_parity.py --run runs/starter \
        --converter llama_cpp_python-0.3.36/vendor/llama.cpp --peer peer --keep files

What a run that was stopped left in `--keep` is not made again. Both are oracles: nothing of them is
needed to export. Three comparisons are made:

1. the run's merged safetensors as F32, F16, BF16 and Q8_0: every tensor's bytes and every key;
2. the same model, and a tiny one of each family, as Q4_K_M, Q5_K_M and Q6_K: each tensor's type,
   and its root-mean-square error over that of llama.cpp's quantiser on the same F32 file;
3. the perplexity of 100 held-out rows of medical-o1 under both files' weights (cut to
   256 characters of thought and 128 of response, which bounds the time).
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import json
import math
import os
import shlex
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medimind.cases.case import Case
from medimind.config import ModelConfig
from medimind.export import export_merged
from medimind.export.gguf import About, export_gguf, open_weights
from medimind.export.trained import open_trained
from medimind.formats.gguf import GgufFile, read_gguf
from medimind.models.load import load_model
from medimind.models.loss import token_losses
from medimind.packing.pack import pack
from medimind.prompts.render import render_training
from medimind.prompts.templates import get_template
from medimind.tracking.run_folder import open_run_folder

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "gguf_parity.json"
PLAIN = ("f32", "f16", "bf16", "q8_0")
FILE_TYPES = {"q4_k_m": 15, "q5_k_m": 17, "q6_k": 18}  # llama_ftype of llama.h
ABOUT = About(name="parity")
FAMILIES = ("llama", "mistral", "qwen2", "qwen3")
TINY = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 9}
LONGEST = 256


def convert(converter: Path, peer: Path, folder: Path, path: Path, kind: str) -> GgufFile:
    """llama.cpp's own file of a folder of safetensors."""
    if path.is_file():
        return read_gguf(path)
    command = [sys.executable, str(converter / "convert_hf_to_gguf.py"), str(folder)]
    command += ["--outfile", str(path), "--outtype", kind]
    path_of_peer = {"PYTHONPATH": str(peer.resolve())}  # sentencepiece, which it imports
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env=os.environ | path_of_peer
    )
    if done.returncode:
        sys.exit(f"the converter failed:\n{done.stderr[-2000:]}")
    return read_gguf(path)


def quantize(python: str, peer: Path, source: Path, path: Path, name: str) -> GgufFile:
    """llama.cpp's own quantisation of a file, in a process of its own."""
    if path.is_file():
        return read_gguf(path)
    code = (
        "import sys; sys.path.insert(0, sys.argv[1]);"
        "from llama_cpp_py_sync._cffi_bindings import get_ffi, get_lib;"
        "lib = get_lib(); params = lib.llama_model_quantize_default_params();"
        "params.ftype = int(sys.argv[4]); params.nthread = 2;"
        "p = get_ffi().new('llama_model_quantize_params *', params);"
        "sys.exit(lib.llama_model_quantize(sys.argv[2].encode(), sys.argv[3].encode(), p))"
    )
    command = [*shlex.split(python), "-c", code, str(peer), str(source), str(path)]
    done = subprocess.run(
        [*command, str(FILE_TYPES[name])], capture_output=True, text=True, check=False
    )
    if done.returncode:
        sys.exit(f"llama.cpp's quantiser failed:\n{done.stderr[-2000:]}")
    return read_gguf(path)


def export(folder: Path, path: Path, kind: str) -> GgufFile:
    if path.is_file():
        return read_gguf(path)
    export_gguf(open_weights(folder), path, quantization=kind, model=folder, about=ABOUT)
    return read_gguf(path)


def compare_bytes(ours: GgufFile, theirs: GgufFile) -> dict[str, Any]:
    different = [
        name
        for name in theirs.tensors
        if name not in ours.tensors
        or ours.tensors[name].type != theirs.tensors[name].type
        or not np.array_equal(ours.raw(name), theirs.raw(name))
    ]
    keys = set(theirs.metadata) | set(ours.metadata)
    return {
        "tensors": len(theirs.tensors),
        "different": different + [name for name in ours.tensors if name not in theirs.tensors],
        "keys_that_differ": sorted(
            key
            for key in keys & set(theirs.metadata) & set(ours.metadata)
            if theirs.metadata[key] != ours.metadata[key]
        ),
        "keys_of_theirs_alone": sorted(set(theirs.metadata) - set(ours.metadata)),
        "keys_of_ours_alone": sorted(set(ours.metadata) - set(theirs.metadata)),
    }


def compare_errors(whole: GgufFile, ours: GgufFile, theirs: GgufFile) -> dict[str, Any]:
    """Root-mean-square errors of both, over all tensors of one type and tensor by tensor."""
    kept = ours.path.with_suffix(".errors.json")
    if kept.is_file():
        return json.loads(kept.read_text(encoding="utf-8"))
    squares: dict[str, list[float]] = {}
    ratios: dict[str, float] = {}
    other_types, other_bytes = [], 0
    for name, tensor in theirs.tensors.items():
        if ours.tensors[name].type != tensor.type:
            other_types.append(name)
            continue
        other_bytes += not np.array_equal(ours.raw(name), theirs.raw(name))
        values = whole.read(name).astype(np.float64)
        both = [float(np.sum((file.read(name) - values) ** 2)) for file in (ours, theirs)]
        if both[1] == 0.0:
            continue
        ratios[name] = math.sqrt(both[0] / both[1])
        sums = squares.setdefault(tensor.type.name, [0.0, 0.0])
        sums[0] += both[0]
        sums[1] += both[1]
    worst = max(ratios, key=ratios.__getitem__)
    found = {
        "types": dict(Counter(tensor.type.name for tensor in theirs.tensors.values())),
        "tensors_of_another_type": other_types,
        "tensors_of_other_bytes": other_bytes,
        "rmse_ratio": {kind: math.sqrt(a / b) for kind, (a, b) in squares.items()},
        "worst_tensor": [worst, ratios[worst]],
        "bytes": [ours.path.stat().st_size, theirs.path.stat().st_size],
    }
    kept.write_text(json.dumps(found), encoding="utf-8")
    return found


@torch.no_grad()
def perplexity(path: Path, rows: list[Case], template: Any) -> float:
    """Of the thoughts and responses of rows, by the weights of a GGUF file."""
    model = load_model(ModelConfig(path=str(path), quantization="none", device="cpu"))
    prompts = [render_training(row, template=template, tokenizer=model.tokenizer) for row in rows]
    losses = [
        values_N.numpy() if isinstance(values_N, torch.Tensor) else values_N
        for batch in pack(prompts, tokens_per_batch=max(len(p.token_ids_S) for p in prompts))
        for _, values_N in token_losses(model.decoder, batch).per_case()
    ]
    return math.exp(float(np.concatenate(losses).astype(np.float64).mean()))


def kept_perplexity(path: Path, rows: list[Case], template: Any) -> float:
    """The same, kept beside the file."""
    kept = path.with_suffix(f".{len(rows)}-rows.json")
    if not kept.is_file():
        kept.write_text(json.dumps(perplexity(path, rows, template)), encoding="utf-8")
        print(path.name, kept.read_text(encoding="utf-8"), flush=True)
    return json.loads(kept.read_text(encoding="utf-8"))


def read_rows(path: Path, *, count: int) -> list[Case]:
    """The last rows of medical-o1, their texts cut to bound the time this takes."""
    lines = path.read_text(encoding="utf-8").splitlines()[-count:]
    rows = [json.loads(line) for line in lines]
    return [
        Case(
            id=str(number),
            question=row["Question"],
            reasoning=row["Complex_CoT"][:LONGEST],
            response=row["Response"][: LONGEST // 2],
        )
        for number, row in enumerate(rows)
    ]


@contextlib.contextmanager
def scratch_folder() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def tiny_folder(folder: Path, family: str) -> Path:
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny_checkpoints import write_folder

    if folder.is_dir():
        return folder
    return write_folder(folder, family, **TINY)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--run", type=Path, required=True, help="a trained run")
    parser.add_argument("--converter", type=Path, required=True, help="llama.cpp's source")
    parser.add_argument("--peer", type=Path, required=True, help="where llama-cpp-py-sync lies")
    parser.add_argument(
        "--python",
        default=sys.executable,
        help="starts Python for the quantiser; where the system's libc is too old for its wheel, "
        "a newer one's ld.so with --library-path before it",
    )
    rows = ROOT.parent / "shared" / "data" / "cot" / "medical_o1_500.jsonl"
    parser.add_argument("--data", type=Path, default=rows, help="JSONL of medical-o1's columns")
    parser.add_argument("--rows", type=int, default=100, help="held-out rows; 0 leaves them out")
    parser.add_argument("--keep", type=Path, help="folder for the files; used again if there")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    run, recipe = open_run_folder(arguments.run)
    with contextlib.nullcontext(arguments.keep) if arguments.keep else scratch_folder() as folder:
        folder.mkdir(parents=True, exist_ok=True)
        merged = folder / "merged"
        if not merged.is_dir():
            export_merged(open_trained(run, recipe), merged)
        plain = {
            kind: compare_bytes(
                export(merged, folder / f"ours-{kind}.gguf", kind),
                convert(
                    arguments.converter,
                    arguments.peer,
                    merged,
                    folder / f"theirs-{kind}.gguf",
                    kind,
                ),
            )
            for kind in PLAIN
        }
        print(json.dumps(plain, indent=1), flush=True)
        models = {"SmolLM2-135M": merged}
        models |= {family: tiny_folder(folder / family, family) for family in FAMILIES}
        quantized: dict[str, Any] = {}
        for title, source in models.items():
            whole = export(source, folder / f"{title}.gguf", "f32")
            for kind in FILE_TYPES:
                ours = export(source, folder / f"{title}-ours-{kind}.gguf", kind)
                path = folder / f"{title}-theirs-{kind}.gguf"
                theirs = quantize(arguments.python, arguments.peer, whole.path, path, kind)
                quantized[f"{title} {kind}"] = compare_errors(whole, ours, theirs)
                print(title, kind, quantized[f"{title} {kind}"], flush=True)
        write_result(arguments, plain, quantized)
        if arguments.rows:
            cases = read_rows(arguments.data, count=arguments.rows)
            template = get_template(recipe.prompt)
            for kind in FILE_TYPES:
                name = f"SmolLM2-135M {kind}"
                # Files of the same tensors, byte for byte, need not be asked twice.
                is_same = not quantized[name]["tensors_of_other_bytes"]
                found = [
                    kept_perplexity(folder / f"SmolLM2-135M-{who}-{kind}.gguf", cases, template)
                    for who in ("ours", "ours" if is_same else "theirs")
                ]
                quantized[name]["perplexity"] = [*found, found[0] / found[1]]
                print(name, *quantized[name]["perplexity"], flush=True)
                write_result(arguments, plain, quantized)


def write_result(
    arguments: argparse.Namespace, plain: dict[str, Any], quantized: dict[str, Any]
) -> None:
    """Keep what is known so far, so that a run that is stopped leaves it."""
    result = {
        "bytes": plain,
        "quantised": quantized,
        "rows": arguments.rows,
        "cores": os.cpu_count(),
        "versions": {
            name: importlib.metadata.version(name)
            for name in ("medimind", "numpy", "torch", "gguf", "transformers")
        },
        "peers": {
            "converter": arguments.converter.resolve().parents[1].name,
            "quantiser": next(arguments.peer.glob("llama_cpp_py_sync*.dist-info")).stem
            if list(arguments.peer.glob("llama_cpp_py_sync*.dist-info"))
            else "llama_cpp_py_sync",
        },
        "date": datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds"),
        "command": "python benchmarks/gguf_parity.py --run runs/starter --converter ... --peer ...",
    }
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

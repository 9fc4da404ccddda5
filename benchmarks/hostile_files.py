"""10,000 damaged model files: each must end in a clear error, or load as what it is.

    python benchmarks/hostile_files.py
    python benchmarks/hostile_files.py --count 400 --llama-cpp 0

Bytes of small GGUF and safetensors checkpoints are flipped, cut off, doubled, and replaced by
numbers that ask for much. Every file goes through what `medimind` does with it: header,
tokenizer, architecture, and each tensor. GGUF files are also opened by the engine that runs
llama.cpp, in a process that is watched, since a crash there would take a server with it. Counted
are: files refused with a clear error, files that load, any other exception, crashes, the slowest
file, and the growth of memory. Before that, each number of a GGUF header is replaced by hostile
ones, since random bytes seldom hit them.
"""

from __future__ import annotations

import argparse
import contextlib
import datetime
import importlib.metadata
import io
import json
import multiprocessing
import resource
import shutil
import sys
import tempfile
import time
from collections import Counter
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
import torch

from medimind.errors import MediMindError
from medimind.export.gguf import About, export_gguf, open_weights
from medimind.formats.gguf import read_gguf
from medimind.models.checkpoint import open_checkpoint
from medimind.prompts.tokenizer import load_tokenizer

ROOT = Path(__file__).resolve().parents[1]
RESULT = ROOT / "benchmarks" / "results" / "hostile_files.json"
FAMILIES = ("llama", "qwen2", "qwen3")
MUCH = (0, 1, 2**31 - 1, 2**31, 2**32 - 1, 2**60, 2**63, 2**64 - 1)
MOST_SECONDS = 2.0
FIRST_KEYS = 1800
NUMBERS = (0, 1, 3, 2**31 - 1, 2**31, 2**32 - 1, 0x7FC00000, 0x7F800000)  # NaN and infinity last
LLAMA_CPP_SECONDS = 20.0


def mutated(data: bytes, rng: np.random.Generator, *, header: int) -> bytes:
    """A damaged copy; half of the changes fall into the first keys, a quarter into the header."""
    changed = bytearray(data)
    for _ in range(int(rng.integers(1, 4))):
        where = rng.random()
        end = FIRST_KEYS if where < 0.5 else header if where < 0.75 else len(changed)
        end = min(end, len(changed))
        if end < 16:
            break
        at = int(rng.integers(0, end - 8))
        kind = int(rng.integers(0, 7))
        if kind == 0:
            changed[at] ^= 1 << int(rng.integers(0, 8))
        elif kind == 1:
            changed[at : at + 8] = int(rng.choice(MUCH[:5])).to_bytes(8, "little")
        elif kind == 2:
            changed[at : at + 8] = MUCH[int(rng.integers(0, len(MUCH)))].to_bytes(8, "little")
        elif kind == 3:
            changed[at : at + 4] = int(rng.integers(0, 2**32)).to_bytes(4, "little")
        elif kind == 4:
            del changed[at:]
        elif kind == 5:
            del changed[at : at + int(rng.integers(1, 64))]
        else:
            changed[at:at] = changed[at : at + int(rng.integers(1, 64))]
    return bytes(changed)


def open_whole(path: Path) -> None:
    """Everything that a command reads of a checkpoint."""
    load_tokenizer(path)
    checkpoint = open_checkpoint(path)
    for name in checkpoint.shapes:
        checkpoint.read(name, dtype=torch.float32)


def outcome(path: Path, seen: Counter[str], slowest: list[float], strange: list[str]) -> None:
    """Open one file and count what came of it."""
    started = time.perf_counter()
    try:
        open_whole(path)
    except MediMindError:
        seen["refused with a clear error"] += 1
    except BaseException as error:
        seen["another exception"] += 1
        strange.append(f"{type(error).__name__}: {error}"[:200])
    else:
        seen["loads"] += 1
    slowest.append(time.perf_counter() - started)


def serve(pipe: Connection) -> None:
    """Opens files in llama.cpp, one after the other, as the server does."""
    from medimind.engines.engine import Decoding, Message, Request
    from medimind.engines.llama_cpp import LlamaCppEngine

    pipe.send("ready")
    while True:
        path = pipe.recv()
        try:
            engine = LlamaCppEngine(Path(path), context=64, threads=1)
            try:
                request = Request((Message("user", "pain"),))
                engine.answer([request], decoding=Decoding(2))
            finally:
                engine.close()
            pipe.send("answers")
        except MediMindError:
            pipe.send("refused with a clear error")
        except BaseException as error:
            pipe.send(f"another exception: {type(error).__name__}: {str(error)[:100]}")


class LlamaCpp:
    """A watched process that opens files in llama.cpp."""

    def __init__(self) -> None:
        self.start()

    def start(self) -> None:
        """Begin the process, and wait until it has imported what it needs."""
        context = multiprocessing.get_context("spawn")
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(theirs,), daemon=True)
        self.process.start()
        theirs.close()
        self.pipe.recv()

    def open(self, path: Path) -> str:
        """What came of a file."""
        try:
            self.pipe.send(str(path))
            if not self.pipe.poll(LLAMA_CPP_SECONDS):
                result = "hangs"
            else:
                return self.pipe.recv()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            result = "crash"
        self.process.kill()
        self.process.join()
        self.start()
        return result


def sources(folder: Path) -> list[tuple[Path, str, int]]:
    """Small checkpoints: the file to damage, its kind, and the length of its header."""
    sys.path.insert(0, str(ROOT / "tests"))
    from tiny_checkpoints import write_folder

    found = []
    for family in FAMILIES:
        with contextlib.redirect_stderr(io.StringIO()):
            base = write_folder(folder / family, family)
        path = folder / f"{family}.gguf"
        export_gguf(
            open_weights(base), path, quantization="q8_0", model=base, about=About(name="tiny")
        )
        data = path.read_bytes()
        found.append((path, "gguf", data.find(b"blk.0.attn_norm") + 2000))
        weights = base / "model.safetensors"
        size = int.from_bytes(weights.read_bytes()[:8], "little")
        found.append((weights, "safetensors", size + 8))
    return found


def wrong_numbers(peer: LlamaCpp, files: list[tuple[Path, str, int]]) -> Counter[str]:
    """Each number of a GGUF header replaced by hostile ones, and opened by the engine."""
    seen: Counter[str] = Counter()
    for path, kind, _ in files:
        if kind != "gguf":
            continue
        whole = path.read_bytes()
        for key, value in read_gguf(path).metadata.items():
            if isinstance(value, bool) or not isinstance(value, int | float):
                continue
            at = whole.index(key.encode()) + len(key) + 4
            for number in NUMBERS:
                path.write_bytes(whole[:at] + number.to_bytes(4, "little") + whole[at + 4 :])
                result = peer.open(path)
                seen[result] += 1
                if result in ("crash", "hangs"):
                    print(f"{key} = {number}: {result}", flush=True)
        path.write_bytes(whole)
    return seen


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--llama-cpp", type=int, default=2500, help="opened there at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for files that end badly")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    seen: dict[str, Counter[str]] = {"gguf": Counter(), "safetensors": Counter()}
    in_llama_cpp: Counter[str] = Counter()
    slowest: list[float] = []
    strange: list[str] = []
    with tempfile.TemporaryDirectory() as scratch:
        files = sources(Path(scratch))
        originals = {path: path.read_bytes() for path, _, _ in files}
        peer = LlamaCpp() if arguments.llama_cpp else None
        numbers = wrong_numbers(peer, files) if peer else Counter()
        for path, _, _ in files:
            open_whole(path if path.suffix == ".gguf" else path.parent)
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for number in range(arguments.count):
            path, kind, header = files[number % len(files)]
            path.write_bytes(mutated(originals[path], rng, header=header))
            target = path if kind == "gguf" else path.parent
            outcome(target, seen[kind], slowest, strange)
            if slowest[-1] > MOST_SECONDS:
                strange.append(f"{slowest[-1]:.1f} s for file {number}")
            if kind == "gguf" and peer and in_llama_cpp.total() < arguments.llama_cpp:
                result = peer.open(path)
                in_llama_cpp[result] += 1
                if arguments.keep and result not in ("answers", "refused with a clear error"):
                    arguments.keep.mkdir(parents=True, exist_ok=True)
                    name = f"{result.partition(':')[0].replace(' ', '-')}-{number}.gguf"
                    shutil.copyfile(path, arguments.keep / name)
            path.write_bytes(originals[path])
        grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
        if peer:
            peer.process.kill()
    result: dict[str, Any] = {
        "files": arguments.count,
        "outcomes": {kind: dict(counter) for kind, counter in seen.items()},
        "in_llama_cpp": dict(in_llama_cpp),
        "header_numbers_in_llama_cpp": dict(numbers),
        "slowest_seconds": round(max(slowest), 3),
        "memory_grown_mib": round(grown / 1024, 1),
        "strange": strange[:20],
        "seed": arguments.seed,
        "versions": {
            name: importlib.metadata.version(name) for name in ("medimind", "gguf", "xllamacpp")
        },
        "date": datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds"),
        "command": "python benchmarks/hostile_files.py",
    }
    print(json.dumps(result, indent=2))
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

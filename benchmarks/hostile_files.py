"""10,000 damaged model files: each must end in a clear error, or load as what it is.

    python benchmarks/hostile_files.py --pieces hostile/     # goes on where it was stopped
    python benchmarks/hostile_files.py --count 400 --llama-cpp 0 --pieces few/

Bytes of small GGUF and safetensors checkpoints are flipped, cut off, doubled, and replaced by
numbers that ask for much. Every file goes through what `medimind` does with it: header,
tokenizer, architecture, and each tensor. GGUF files are also opened by the engine that runs
llama.cpp, in a process that is watched, since a crash there would take a server with it. Counted
are: files refused with a clear error, files that load, any other exception, crashes, the slowest
file, and the growth of memory. Each number of a GGUF header is replaced by hostile ones, since
random bytes seldom hit them, and chat templates that loop or grow for ever are asked through the
engine and through `medimind ask`.
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
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
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
LLAMA_CPP_SECONDS = 60.0
PIECE = 500
TEMPLATES = (
    "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "{{ 9 ** (9 ** 9) }}",
    "{{ 'x'.center(10 ** 10) }}",
    "{{ ('x' * 10 ** 6).split('') }}",
    "{% for a in range(99999) %}{{ 'x' * 99999 }}{% endfor %}",
    "{% for m in messages %}{{ raise_exception('no') }}{% endfor %}",
    "{{ ''.__class__.__mro__[1].__subclasses__() }}",
    "{% include '/etc/passwd' %}",
    "{% if %}",
)


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


def outcome(
    path: Path, seen: Counter[str], slowest: list[tuple[float, float]], strange: list[str]
) -> None:
    """Open one file; count what came of it, and its seconds by the clock and of the processor."""
    started, worked = time.perf_counter(), time.process_time()
    try:
        open_whole(path)
    except MediMindError:
        seen["refused with a clear error"] += 1
    except BaseException as error:
        seen["another exception"] += 1
        strange.append(f"{type(error).__name__}: {error}"[:200])
    else:
        seen["loads"] += 1
    slowest.append((time.perf_counter() - started, time.process_time() - worked))


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


def wrong_numbers(peer: LlamaCpp, path: Path) -> dict[str, Any]:
    """Each number of a GGUF header replaced by hostile ones, and opened by the engine."""
    seen: Counter[str] = Counter()
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
    return {"numbers": dict(seen)}


def hostile_template(folder: Path, template: str) -> dict[str, Any]:
    """A chat template that loops or grows, asked through the engine and through the command."""
    from medimind.engines.engine import Decoding, Message, Request
    from medimind.engines.gguf_engine import open_gguf_engine
    from tiny_checkpoints import write_folder

    with contextlib.redirect_stderr(io.StringIO()):
        base = write_folder(folder / "template", "llama")
    (base / "chat_template.jinja").write_text(template, encoding="utf-8")
    path = base / "m.gguf"
    about = About(name="tiny", license="apache-2.0")
    export_gguf(open_weights(base), path, quantization="q8_0", model=base, about=about)
    engine = open_gguf_engine(path, context=64, threads=1)
    started = time.perf_counter()
    try:
        engine.answer([Request((Message("user", "pain"),))], decoding=Decoding(2))
        seen = "answers"
    except MediMindError:
        seen = "refused with a clear error"
    except BaseException as error:
        seen = f"another exception: {type(error).__name__}"
    seconds = time.perf_counter() - started
    engine.close()
    command = [sys.executable, "-m", "medimind", "ask", "pain", "--model", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    is_clear = done.returncode == 1 and done.stderr.startswith("error: ")
    is_clear &= done.stderr.count("\n") == 1
    return {
        "templates": {seen: 1},
        "commands": {"one line, exit code 1" if is_clear else f"code {done.returncode}": 1},
        "template_seconds": round(seconds, 3),
    }


def damaged(
    files: list[tuple[Path, str, int]],
    peer: LlamaCpp | None,
    *,
    numbers: range,
    seed: int,
    keep: Path | None,
) -> dict[str, Any]:
    """What came of some damaged files; file ``number`` is the same in every run of a seed."""
    originals = {path: path.read_bytes() for path, _, _ in files}
    seen: dict[str, Counter[str]] = {"gguf": Counter(), "safetensors": Counter()}
    in_llama_cpp: Counter[str] = Counter()
    slowest: list[tuple[float, float]] = []
    strange: list[str] = []
    for path, _, _ in files:
        open_whole(path if path.suffix == ".gguf" else path.parent)
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in numbers:
        path, kind, header = files[number % len(files)]
        rng = np.random.default_rng([seed, number])
        path.write_bytes(mutated(originals[path], rng, header=header))
        outcome(path if kind == "gguf" else path.parent, seen[kind], slowest, strange)
        if slowest[-1][1] > MOST_SECONDS:
            strange.append(f"{slowest[-1][1]:.1f} s for file {number}")
        if kind == "gguf" and peer:
            result = peer.open(path)
            in_llama_cpp[result] += 1
            if keep and result not in ("answers", "refused with a clear error"):
                keep.mkdir(parents=True, exist_ok=True)
                name = f"{result.partition(':')[0].replace(' ', '-')}-{number}.gguf"
                shutil.copyfile(path, keep / name)
        path.write_bytes(originals[path])
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory
    return {
        "files": len(numbers),
        **{kind: dict(counter) for kind, counter in seen.items()},
        "in_llama_cpp": dict(in_llama_cpp),
        "slowest_seconds": round(max(wall for wall, _ in slowest), 3),
        "slowest_cpu_seconds": round(max(cpu for _, cpu in slowest), 3),
        "memory_grown_mib": round(grown / 1024, 1),
        "strange": strange,
    }


def summed(pieces: list[dict[str, Any]]) -> dict[str, Any]:
    """Counts added up, the largest of all times and growths."""

    def total(key: str) -> dict[str, int]:
        return dict(sum((Counter(piece.get(key, {})) for piece in pieces), Counter[str]()))

    def largest(key: str) -> float:
        return max(piece.get(key, 0.0) for piece in pieces)

    return {
        "files": sum(piece.get("files", 0) for piece in pieces),
        "outcomes": {kind: total(kind) for kind in ("gguf", "safetensors")},
        "in_llama_cpp": total("in_llama_cpp"),
        "header_numbers_in_llama_cpp": total("numbers"),
        "hostile_templates": total("templates"),
        "hostile_templates_through_ask": total("commands"),
        "slowest_template_seconds": largest("template_seconds"),
        "slowest_seconds": largest("slowest_seconds"),
        "slowest_cpu_seconds": largest("slowest_cpu_seconds"),
        "memory_grown_mib": largest("memory_grown_mib"),
        "strange": [one for piece in pieces for one in piece.get("strange", ())][:20],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--llama-cpp", type=int, default=2500, help="opened there, about")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for files that end badly")
    parser.add_argument("--pieces", type=Path, required=True, help="folder of what is done so far")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT / "tests"))
    arguments.pieces.mkdir(parents=True, exist_ok=True)
    peer = LlamaCpp() if arguments.llama_cpp else None
    pieces: list[dict[str, Any]] = []

    def piece(name: str, work: Callable[[], dict[str, Any]]) -> None:
        path = arguments.pieces / f"{name}.json"
        if not path.is_file():
            path.write_text(json.dumps(work()), encoding="utf-8")
            print(name, path.read_text(encoding="utf-8"), flush=True)
        pieces.append(json.loads(path.read_text(encoding="utf-8")))

    with tempfile.TemporaryDirectory() as scratch:
        files = sources(Path(scratch))
        for path, kind, _ in files:
            if kind == "gguf" and peer:
                piece(f"numbers-{path.stem}", partial(wrong_numbers, peer, path))
        for number, template in enumerate(TEMPLATES if peer else ()):
            piece(f"template-{number}", partial(hostile_template, Path(scratch), template))
        for start in range(0, arguments.count, PIECE):
            numbers = range(start, min(start + PIECE, arguments.count))
            # Every second file is a GGUF.
            asked = peer if start < 2 * arguments.llama_cpp else None
            work = partial(
                damaged, files, asked, numbers=numbers, seed=arguments.seed, keep=arguments.keep
            )
            piece(f"files-{start}", work)
    if peer:
        peer.process.kill()
    result: dict[str, Any] = {
        **summed(pieces),
        "seed": arguments.seed,
        "versions": {
            name: importlib.metadata.version(name) for name in ("medimind", "gguf", "xllamacpp")
        },
        "date": datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds"),
        "command": "python benchmarks/hostile_files.py --pieces hostile/",
    }
    print(json.dumps(result, indent=2))
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()

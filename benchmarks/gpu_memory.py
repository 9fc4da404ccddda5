"""Memory of a training step on a card: what the plan predicts against what is measured.

    python benchmarks/gpu_memory.py                                 # all but loading
    python benchmarks/gpu_memory.py --parts load settings cards attention --add --tokenizer FOLDER
    python benchmarks/gpu_memory.py --try --out /tmp/tried.json     # without a card, a tiny shape

| part      | what is measured                                                                   |
|-----------|------------------------------------------------------------------------------------|
| settings  | peaks of three steps by the loop's own functions, by plan, tokens, dtype, shape    |
| cards     | the same by the plan for a card of each size, with no more memory than it has      |
| attention | what each backend allocates by itself                                              |
| load      | seconds from safetensors to NF4 beside Unsloth, in processes of their own in turns |
| long      | steps on one row in at most 24 GiB                                                 |

What counts memory alone runs side by side and beside the card's tests, as torch counts a process'
own; loading and the long row have the machine to themselves, after all files were read once.
Nothing is published unless the tests pass.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from gpu_room import Room
from gpu_tests import card_tests

ROOT = Path(__file__).resolve().parents[1]
GIB = 1 << 30
PARTS = ("settings", "cards", "attention", "load", "long")
GROUPS = {"settings": ("dense", "lean", "others"), "cards": ("cards",), "attention": ("attention",)}
_TESTS_GIB, _CHECKPOINT_GIB = 12, 18
_PATIENCE = 400.0


@dataclass(slots=True)
class Child:
    """A process of this run, with files for what it says."""

    name: str
    process: subprocess.Popen[str]
    said: IO[str]
    complained: IO[str]

    def rows(self, *, patience: float = _PATIENCE) -> list[dict]:
        """Its lines when it has ended; a last one says what went wrong."""
        try:
            code: int | str = self.process.wait(timeout=patience)
        except subprocess.TimeoutExpired:
            self.stop()
            code = f"none within {patience:.0f} s"
        with self.said, self.complained:
            self.said.seek(0)
            self.complained.seek(0)
            found = [json.loads(line) for line in self.said if line.startswith("{")]
            error = self.complained.read()[-400:]
        if code:
            found.append({"group": self.name, "error": f"exit status {code}: {error}"})
        return found

    def stop(self) -> None:
        """End it, wherever it is."""
        self.process.kill()
        self.process.wait()


def begin(name: str, *command: str, stdin: int | None = None) -> Child:
    """Start a process."""
    said, complained = (tempfile.TemporaryFile("w+") for _ in range(2))  # noqa: SIM115
    process = subprocess.Popen(
        [sys.executable, *command],
        stdin=stdin if stdin is not None else subprocess.DEVNULL,
        stdout=said,
        stderr=complained,
        text=True,
        cwd=ROOT,
    )
    return Child(name, process, said, complained)


def begin_group(name: str, room: Room | None, *more: str) -> Child:
    """Start a group of settings."""
    shared = []
    if room:
        shared = ["--room", str(room.file), "--room-gib", str(room.total / GIB)]
    return begin(name, str(ROOT / "benchmarks/gpu_settings.py"), name, *shared, *more)


def show(rows: list[dict]) -> list[dict]:
    for row in rows:
        told = {k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}
        for long_name in ("counted_as", "parts_gib", "losses"):
            told.pop(long_name, None)
        print(json.dumps(told), flush=True)
    return rows


class Loading:
    """Each side in a process of its own; all import while others still measure.

    Args:
        checkpoint: A folder of safetensors; made where it is missing.
        tokenizer: Folder for a new checkpoint.
        peers: Beside us.
    """

    def __init__(self, checkpoint: Path, tokenizer: Path | None, peers: list[str]) -> None:
        self.checkpoint = checkpoint
        self.maker: Child | None = None
        if not checkpoint.exists():
            command = (str(ROOT / "benchmarks/gpu_peers.py"), "make", str(checkpoint))
            self.maker = begin("checkpoint", *command, str(tokenizer))
        self.script = str(ROOT / "benchmarks/gpu_load.py")
        self.waiting = [
            begin(side, self.script, side, str(checkpoint), "--wait", stdin=subprocess.PIPE)
            for side in ("medimind", *peers, "medimind")
        ]

    def made(self) -> list[dict]:
        """Wait for the checkpoint; what went wrong with it."""
        return self.maker.rows() if self.maker else []

    def stop(self) -> None:
        """End what still waits."""
        for child in [*self.waiting, *([self.maker] if self.maker else [])]:
            child.stop()

    def rows(self) -> Iterator[dict]:
        """One after the other; at the end our first step, nothing compiled before."""
        for file in sorted(self.checkpoint.glob("*.safetensors")):
            with file.open("rb", buffering=0) as opened:
                while opened.read(64 << 20):
                    pass
        for child in self.waiting:
            assert child.process.stdin is not None
            try:
                child.process.stdin.write("\n")
                child.process.stdin.close()
            except BrokenPipeError:  # it ended early; its row says why
                pass
            yield from show(child.rows())
        last = begin("medimind --step", self.script, "medimind", str(self.checkpoint), "--step")
        yield from show(last.rows())


def measure_beside_tests(
    options: argparse.Namespace, folder: Path
) -> tuple[dict[str, list[dict]], Loading | None, str | None]:
    """Rows of all groups by part, what is ready to load, and how the tests went."""
    card = torch.cuda.is_available()
    total = torch.cuda.get_device_properties(0).total_memory if card else 80 * GIB
    room = Room(folder / "room.json", total=total - 2 * GIB)
    room.note(0, _TESTS_GIB * GIB)
    with ThreadPoolExecutor() as pool:
        if options.try_out:
            tests = pool.submit(lambda: "none: tried out")
        else:
            tests = pool.submit(card_tests)
        loading = None
        if "load" in options.parts:
            loading = Loading(options.checkpoint, options.tokenizer, options.peers)
            if loading.maker:
                room.note(1, _CHECKPOINT_GIB * GIB)
        groups = {"settings": ("try",)} if options.try_out else GROUPS
        running = {
            part: [begin_group(name, room) for name in groups[part]]
            for part in options.parts
            if part in groups
        }
        if loading:
            if failed := show(loading.made()):
                print("no checkpoint:", failed, flush=True)
            room.leave(1)
        passed = tests.result()
        print(f"tests: {passed} ({time.perf_counter() - options.began:.0f} s)", flush=True)
        room.leave(0)
        if passed is None:
            for child in [child for part in running.values() for child in part]:
                child.stop()
            if loading:
                loading.stop()
            return {}, None, None
        rows = {part: [] for part in running}
        for part, children in running.items():
            for child in children:
                rows[part] += show(child.rows())
        print(f"memory: {time.perf_counter() - options.began:.0f} s", flush=True)
    return rows, loading, passed


def _command(parts: list[str]) -> str:
    """What others would type; folders of this machine are no part of it."""
    new = " --tokenizer TOKENIZER" if "load" in parts else ""
    return f"python benchmarks/gpu_memory.py --parts {' '.join(parts)}{new} --add"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    default = ["settings", "cards", "attention", "long"]
    parser.add_argument("--parts", nargs="+", default=default, choices=PARTS)
    parser.add_argument("--long-tokens", type=int, default=102_400)
    parser.add_argument("--long-steps", type=int, default=2)
    parser.add_argument("--checkpoint", type=Path, default=Path("/tmp/random-8b"))
    parser.add_argument("--tokenizer", type=Path, help="folder for a new checkpoint")
    parser.add_argument("--peers", nargs="*", default=["unsloth"])
    parser.add_argument("--add", action="store_true", help="keep the other parts of the result")
    parser.add_argument("--try", dest="try_out", action="store_true", help="a tiny shape, no tests")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results/gpu_memory.json")
    options = parser.parse_args()
    options.began = time.perf_counter()
    new = "load" in options.parts and not options.checkpoint.exists()
    if new and not (options.tokenizer and (options.tokenizer / "tokenizer.json").exists()):
        parser.error("--tokenizer: a new checkpoint needs a folder with tokenizer.json")
    if options.try_out and options.out == parser.get_default("out"):
        parser.error("--try publishes nothing: set --out")
    path = [str(ROOT / "src"), os.environ.get("PYTHONPATH", "")]
    os.environ["PYTHONPATH"] = os.pathsep.join(entry for entry in path if entry)
    with tempfile.TemporaryDirectory() as folder:
        rows, loading, tests = measure_beside_tests(options, Path(folder))
    if tests is None:
        return 1
    report: dict = {}
    if options.add:
        kept = options.out if options.out.exists() else parser.get_default("out")
        report = json.loads(kept.read_text())
    told = {
        "date": time.strftime("%Y-%m-%d"),
        "command": _command(options.parts),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "none",
        "torch": torch.__version__,
        "tests": tests,
    }

    def write(part: str, found: object) -> None:
        report[part] = found
        report["of"] = report.get("of", {}) | {part: told}
        offs = [abs(row["off"]) for row in report.get("settings", []) if "off" in row]
        report["largest_deviation"] = max(offs, default=None)
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(report, indent=1) + "\n")

    for part, found in rows.items():
        write(part, found)
    loaded = []
    for row in loading.rows() if loading else ():
        loaded.append(row)
        write("load", loaded)
    if "long" in options.parts and not options.try_out:
        limits = ["--long-tokens", str(options.long_tokens), "--long-steps"]
        found = show(begin_group("long", None, *limits, str(options.long_steps)).rows())
        write("long", found[-1])
    print(json.dumps({"largest_deviation": report.get("largest_deviation")}))
    print(f"all: {time.perf_counter() - options.began:.0f} s", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())

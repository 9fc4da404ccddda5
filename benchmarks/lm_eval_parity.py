"""Option likelihoods beside lm-evaluation-harness's, item by item.

    python benchmarks/lm_eval_parity.py --data ../shared/data/mcq
    python benchmarks/lm_eval_parity.py --data ../shared/data/mcq --limit 50

The harness asks the same SmolLM2 weights through transformers, with its own tasks' prompts over the
same published files. Beside it stand our own evaluation (``--likelihood harness``) and our adapter
inside the harness. Every item with another choice is printed with the margin between the two
options, in nats, and with the largest difference of a log-probability.

It is slow on a CPU: what both sides answer goes piece by piece to ``--pieces``, and a run that was
stopped goes on with the piece that is missing.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from lm_eval import simple_evaluate
from lm_eval import tasks as harness_tasks
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager

from medimind.cases.case import Case
from medimind.config import ModelConfig
from medimind.engines.engine import OptionRequest, Request
from medimind.engines.own import OwnEngine
from medimind.evaluation.benchmarks import BENCHMARKS
from medimind.evaluation.benchmarks.read import read_benchmark
from medimind.evaluation.lm_eval import MediMindLM
from medimind.export import export_merged
from medimind.models.load import Model, load_model

RESULT = Path(__file__).parent / "results" / "lm_eval_parity.json"
TASK = "parity"
PIECE = 50
NUM_IN_ADAPTER = 40
"""Items of each task that our adapter inside the harness answers too."""


def medqa(row: dict[str, Any]) -> dict[str, Any]:
    endings = {f"ending{i}": row["options"][letter] for i, letter in enumerate("ABCD")}
    return {"sent1": row["question"], **endings, "label": "ABCD".index(row["answer_idx"])}


def medmcqa(row: dict[str, Any]) -> dict[str, Any]:
    return {**row, "cop": row["cop"] - 1}


def pubmedqa(row: dict[str, Any]) -> dict[str, Any]:
    return row


TASKS = {
    "medqa": ("medqa/medqa.yaml", "medqa_us_4op_test_part.jsonl", medqa),
    "medmcqa": ("medmcqa/medmcqa.yaml", "medmcqa_dev_part.jsonl", medmcqa),
    "pubmedqa": ("pubmedqa/pubmedqa.yaml", "pubmedqa_pqal_part.json", pubmedqa),
}
"""The harness's task, the published file, and its rows as they lie on the hub."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--limit", type=int, default=None)
    parser.add_argument("--out", type=Path, default=RESULT)
    parser.add_argument("--pieces", type=Path, default=Path("runs/lm_eval_parity"))
    parser.add_argument("--tasks", nargs="+", choices=list(TASKS), default=list(TASKS))
    parser.add_argument("--only", choices=["harness", "ours"], help="fill --pieces, compare later")
    parser.add_argument(
        "--answered", action="store_true", help="ask nothing, compare what both have answered"
    )
    arguments = parser.parse_args()
    model = load_model(ModelConfig(path="smollm2-135m-instruct", quantization="none", device="cpu"))
    report: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "command": "python " + " ".join(sys.argv),
        "model": f"{model.name}, {model.dtype}, sha256 {model.sha256[:16]}",
        "versions": {
            name: version(name) for name in ("lm_eval", "transformers", "torch", "datasets")
        },
        "benchmarks": {},
    }
    with tempfile.TemporaryDirectory() as folder:
        harness = Harness(model, Path(folder), data=arguments.data)
        engine = OwnEngine(model, template=None)
        for name in arguments.tasks:
            whole = read_benchmark(name, path=arguments.data, limit=arguments.limit).cases
            place = arguments.pieces / model.sha256[:16] / name
            asked = {
                "harness": partial(harness.ask, name),
                "ours": partial(own_logprobs, engine, name),
            }
            pieces = cut(whole, place, answered=arguments.answered)
            found = {
                side: in_pieces(pieces, place / side, ask)
                for side, ask in asked.items()
                if arguments.only in (None, side)
            }
            cases = tuple(case for piece in pieces.values() for case in piece)
            if arguments.only is None:
                report["benchmarks"][name] = {
                    "published_items": len(whole),
                    **compare(cases, **found),
                }
                if not arguments.answered:
                    few = cases[:NUM_IN_ADAPTER]
                    task = write_task(name, few, Path(folder), data=arguments.data)
                    inside = choices(MediMindLM(model=model), task)
                    report["benchmarks"][name]["adapter_in_harness"] = {
                        "items": len(few),
                        "same_choice": same_choices(inside, found["harness"]),
                    }
                print(json.dumps({name: report["benchmarks"][name]}, indent=2), flush=True)
    if arguments.only is not None:
        return 0
    shares = [one["same_choice_share"] for one in report["benchmarks"].values()]
    report["lowest_same_choice_share"] = min(shares)
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    print(f"lowest share of items with the same choice: {min(shares):.4f}")
    return 0 if min(shares) >= 0.995 else 1


def cut(cases: tuple[Case, ...], place: Path, *, answered: bool) -> dict[str, tuple[Case, ...]]:
    """The cases in pieces, by the names of their files; those alone that both sides have."""
    starts = range(0, len(cases), PIECE)
    pieces = [cases[start : start + PIECE] for start in starts]
    named = {f"{start:05d}-{len(piece)}.json": piece for start, piece in zip(starts, pieces)}
    sides = [place / side for side in ("harness", "ours")]
    return {
        name: piece
        for name, piece in named.items()
        if not answered or all((side / name).is_file() for side in sides)
    }


def in_pieces(
    pieces: dict[str, tuple[Case, ...]],
    place: Path,
    ask: Callable[[tuple[Case, ...]], list[dict[str, Any]]],
) -> list[dict[str, Any]]:
    """What ``ask`` gives each case; pieces that lie in ``place`` are not asked again."""
    place.mkdir(parents=True, exist_ok=True)
    found: list[dict[str, Any]] = []
    for name, piece in pieces.items():
        path = place / name
        if not path.is_file():
            aside = path.with_suffix(".part")
            aside.write_text(json.dumps(ask(piece)))
            aside.replace(path)
            print(f"{path}: {len(piece)} of {sum(map(len, pieces.values()))} cases", flush=True)
        found += json.loads(path.read_text())
    return found


class Harness:
    """The harness over the same weights through transformers, which are read when first needed."""

    def __init__(self, model: Model, folder: Path, *, data: Path) -> None:
        self.model, self.folder, self.data = model, folder, data
        self.peer: HFLM | None = None

    def ask(self, name: str, cases: tuple[Case, ...]) -> list[dict[str, Any]]:
        if self.peer is None:
            export_merged(self.model, self.folder / "model")
            weights = transformers.AutoModelForCausalLM.from_pretrained(
                self.folder / "model", dtype=torch.float32
            )
            tokenizer = transformers.AutoTokenizer.from_pretrained(self.folder / "model")
            self.peer = HFLM(pretrained=weights, tokenizer=tokenizer, batch_size=8, device="cpu")
        return choices(self.peer, write_task(name, cases, self.folder, data=self.data))


def write_task(name: str, cases: tuple[Case, ...], folder: Path, *, data: Path) -> Path:
    """The harness's own task over the published rows of these cases, nothing of them changed."""
    own_file, file, columns = TASKS[name]
    text = (data / file).read_text("utf-8")
    if file.endswith(".json"):
        stored = list(json.loads(text).values())
    else:
        stored = [json.loads(line) for line in text.splitlines()]
    places = {case.id: i for i, case in enumerate(read_benchmark(name, path=data).cases)}
    chosen = [columns(stored[places[case.id]]) for case in cases]
    # A folder and a file of its own: tasks are found by folder, and rows are cached by file name.
    place = Path(tempfile.mkdtemp(dir=folder))
    rows = place / f"{place.name}.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in chosen))
    path = place / "task.yaml"
    original = Path(harness_tasks.__file__).parent / own_file
    path.write_text(
        f"include: {original}\ntask: {TASK}\ndataset_path: json\ndataset_name: null\n"
        f"dataset_kwargs: {{data_files: {{test: {rows}}}}}\n"
        "training_split: null\nvalidation_split: null\ntest_split: test\n"
    )
    return path


def choices(lm: Any, task: Path) -> list[dict[str, Any]]:
    """What the harness's model gives each item: prompt, log-probabilities, right or not."""
    results = simple_evaluate(
        model=lm,
        tasks=[TASK],
        task_manager=TaskManager(include_path=str(task.parent), include_defaults=False),
        log_samples=True,
        bootstrap_iters=0,
        verbosity="ERROR",
    )
    samples = sorted(results["samples"][TASK], key=lambda sample: sample["doc_id"])
    found = []
    for sample in samples:
        found.append(
            {
                "prompt": sample["arguments"][0][0],
                "continuations": [continuation for _, continuation in sample["arguments"]],
                "logprobs": [float(response[0][0]) for response in sample["resps"]],
                "correct": bool(sample["acc"]),
            }
        )
    return found


def own_logprobs(engine: OwnEngine, name: str, cases: tuple[Case, ...]) -> list[dict[str, Any]]:
    completions = [BENCHMARKS[name].completion(case) for case in cases]
    asked = [
        OptionRequest(Request((), prompt=one.prompt), tuple(one.continuations))
        for one in completions
    ]
    found = engine.option_logprobs(asked)
    return [
        {"prompt": one.prompt, "continuations": list(one.continuations), "logprobs": logprobs}
        for one, logprobs in zip(completions, found, strict=True)
    ]


def compare(cases, *, harness, ours) -> dict[str, Any]:
    """Choices that differ, each with its margin; and the largest difference of a figure."""
    differing = []
    for case, theirs, own in zip(cases, harness, ours, strict=True):
        first, second = best(theirs["logprobs"]), best(own["logprobs"])
        if first != second:
            margin = theirs["logprobs"][first] - theirs["logprobs"][second]
            differing.append(
                {"case": case.id, "harness": first, "ours": second, "margin_nats": margin}
            )
    largest = [
        max(
            abs(a - b)
            for theirs, own in zip(harness, ours)
            for a, b in zip(theirs["logprobs"], own["logprobs"], strict=True)
            if theirs["prompt"] == own["prompt"] or not same_prompts
        )
        for same_prompts in (False, True)
    ]
    right = [best(o["logprobs"]) == c.answer_index for o, c in zip(ours, cases)]
    same = len(cases) - len(differing)
    return {
        "items": len(cases),
        "same_choice": same,
        "same_choice_share": same / len(cases),
        "differing": differing,
        "same_prompts": sum(a["prompt"] == b["prompt"] for a, b in zip(harness, ours)),
        "other_prompts": [
            {"case": case.id, "only_white_space": a["prompt"].split() == b["prompt"].split()}
            for case, a, b in zip(cases, harness, ours)
            if a["prompt"] != b["prompt"]
        ],
        "same_continuations": sum(
            a["continuations"] == b["continuations"] for a, b in zip(harness, ours)
        ),
        "largest_logprob_difference_nats": largest[0],
        "largest_where_prompts_are_the_same": largest[1],
        "harness_accuracy": sum(one["correct"] for one in harness) / len(cases),
        "our_accuracy": sum(right) / len(cases),
    }


def same_choices(some: list[dict[str, Any]], others: list[dict[str, Any]]) -> int:
    return sum(best(a["logprobs"]) == best(b["logprobs"]) for a, b in zip(some, others))


def best(logprobs: list[float]) -> int:
    return max(range(len(logprobs)), key=logprobs.__getitem__)


if __name__ == "__main__":
    sys.exit(main())

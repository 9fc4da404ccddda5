"""Option likelihoods beside lm-evaluation-harness's, item by item.

    python benchmarks/lm_eval_parity.py --data ../shared/data/mcq
    python benchmarks/lm_eval_parity.py --data ../shared/data/mcq --limit 50

The harness asks the same SmolLM2 weights through transformers, with its own tasks' prompts over the
same published files. Beside it stand our own evaluation (``--likelihood harness``) and our adapter
inside the harness. Every item with another choice is printed with the margin between the two
options, in nats, and with the largest difference of a log-probability.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import tempfile
import time
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
from medimind.engines.engine import Request
from medimind.engines.own import OwnEngine
from medimind.evaluation.benchmarks import BENCHMARKS
from medimind.evaluation.benchmarks.read import read_benchmark
from medimind.evaluation.lm_eval import MediMindLM
from medimind.export import export_merged
from medimind.models.load import load_model

RESULT = Path(__file__).parent / "results" / "lm_eval_parity.json"
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
    arguments = parser.parse_args()
    model = load_model(ModelConfig(path="smollm2-135m-instruct", quantization="none", device="cpu"))
    engine = OwnEngine(model, template=None)
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
        export_merged(model, Path(folder) / "model")
        peer = transformers.AutoModelForCausalLM.from_pretrained(
            Path(folder) / "model", dtype=torch.float32
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(Path(folder) / "model")
        theirs = HFLM(pretrained=peer, tokenizer=tokenizer, batch_size=8, device="cpu")
        ours = MediMindLM(model=model)
        for name in TASKS:
            items = read_benchmark(name, path=arguments.data, limit=arguments.limit)
            task = write_task(name, items.cases, Path(folder), data=arguments.data)
            started = time.perf_counter()
            reference = choices(theirs, name, task)
            middle = time.perf_counter()
            own = [own_logprobs(engine, name, case) for case in items.cases]
            seconds = (middle - started, time.perf_counter() - middle)
            inside = choices(ours, name, task, limit=NUM_IN_ADAPTER)
            report["benchmarks"][name] = compare(items.cases, reference, own, inside, seconds)
            print(json.dumps({name: report["benchmarks"][name]}, indent=2), flush=True)
    shares = [one["same_choice_share"] for one in report["benchmarks"].values()]
    report["lowest_same_choice_share"] = min(shares)
    arguments.out.parent.mkdir(exist_ok=True)
    arguments.out.write_text(json.dumps(report, indent=2) + "\n")
    print(f"lowest share of items with the same choice: {min(shares):.4f}")
    return 0 if min(shares) >= 0.995 else 1


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
    rows = folder / f"{name}.jsonl"
    rows.write_text("".join(json.dumps(row) + "\n" for row in chosen))
    path = folder / f"{name}.yaml"
    original = Path(harness_tasks.__file__).parent / own_file
    path.write_text(
        f"include: {original}\ntask: parity_{name}\ndataset_path: json\ndataset_name: null\n"
        f"dataset_kwargs: {{data_files: {{test: {rows}}}}}\n"
        "training_split: null\nvalidation_split: null\ntest_split: test\n"
    )
    return path


def choices(lm: Any, name: str, task: Path, *, limit: int | None = None) -> list[dict[str, Any]]:
    """What the harness's model gives each item: prompt, log-probabilities, right or not."""
    results = simple_evaluate(
        model=lm,
        tasks=[f"parity_{name}"],
        task_manager=TaskManager(include_path=str(task.parent), include_defaults=False),
        limit=limit,
        log_samples=True,
        bootstrap_iters=0,
        verbosity="ERROR",
    )
    samples = sorted(results["samples"][f"parity_{name}"], key=lambda sample: sample["doc_id"])
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


def own_logprobs(engine: OwnEngine, name: str, case: Case) -> dict[str, Any]:
    completion = BENCHMARKS[name].completion(case)
    request = Request((), prompt=completion.prompt)
    logprobs = engine.option_logprobs(request, completion.continuations)
    return {
        "prompt": completion.prompt,
        "continuations": list(completion.continuations),
        "logprobs": logprobs,
    }


def compare(cases, reference, own, inside, seconds) -> dict[str, Any]:
    """Choices that differ, each with its margin; and the largest difference of a figure."""
    differing = []
    for case, theirs, ours in zip(cases, reference, own, strict=True):
        first, second = best(theirs["logprobs"]), best(ours["logprobs"])
        if first != second:
            margin = theirs["logprobs"][first] - theirs["logprobs"][second]
            differing.append(
                {"case": case.id, "harness": first, "ours": second, "margin_nats": margin}
            )
    largest = max(
        abs(a - b)
        for theirs, ours in zip(reference, own)
        for a, b in zip(theirs["logprobs"], ours["logprobs"], strict=True)
    )
    right = [best(o["logprobs"]) == c.answer_index for o, c in zip(own, cases)]
    same = len(cases) - len(differing)
    return {
        "items": len(cases),
        "same_choice": same,
        "same_choice_share": same / len(cases),
        "differing": differing,
        "same_prompts": sum(a["prompt"] == b["prompt"] for a, b in zip(reference, own)),
        "other_prompts": [
            {"case": case.id, "only_white_space": a["prompt"].split() == b["prompt"].split()}
            for case, a, b in zip(cases, reference, own)
            if a["prompt"] != b["prompt"]
        ],
        "same_continuations": sum(
            a["continuations"] == b["continuations"] for a, b in zip(reference, own)
        ),
        "largest_logprob_difference_nats": largest,
        "harness_accuracy": sum(one["correct"] for one in reference) / len(cases),
        "our_accuracy": sum(right) / len(cases),
        "adapter_in_harness": {
            "items": len(inside),
            "same_choice": sum(
                best(a["logprobs"]) == best(b["logprobs"]) for a, b in zip(inside, reference)
            ),
        },
        "seconds": {"harness_with_transformers": seconds[0], "ours": seconds[1]},
    }


def best(logprobs: list[float]) -> int:
    return max(range(len(logprobs)), key=logprobs.__getitem__)


if __name__ == "__main__":
    sys.exit(main())

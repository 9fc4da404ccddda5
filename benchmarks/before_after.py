"""Before and after on real rows: 400 of medical-o1 to train on, 100 held out, three seeds.

    python benchmarks/before_after.py
    python benchmarks/before_after.py --seeds 3407 1 2 --out /tmp/runs
    python benchmarks/before_after.py --together            # all seeds at once: for a card

Each seed has a split, an adapter, an order of cases and a sampling of its own. The first seed's
report has all parts: three benchmarks with three samples a question, wrong hints, calibration,
training rows against everything that is judged. The others ask the benchmarks by likelihood alone.
Figures go to ``results/before_after_medical_o1.json``; texts of the data stay in the run folders.
"""

from __future__ import annotations

import argparse
import datetime
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch

from medimind.cli.display import TerminalDisplay
from medimind.cli.terminal import console
from medimind.config.load import load_recipe
from medimind.evaluation.evaluation import jsonable
from medimind.pipeline import RunResult, run
from medimind.tracking.provenance import package_versions

RECIPE = Path(__file__).with_name("before_after.yaml")
RESULT = Path(__file__).parent / "results" / "before_after_medical_o1.json"
OTHERS = ("evaluation.benchmarks.generate=false", "evaluation.wrong_hints=0")


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[3407, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs"))
    parser.add_argument("--result", type=Path, default=RESULT)
    parser.add_argument("--together", action="store_true", help="a process for each seed, at once")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    if arguments.together:
        return together(arguments)
    document: dict[str, Any] = {
        "date": datetime.date.today().isoformat(),
        "command": "python " + " ".join(sys.argv),
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU",
        "versions": package_versions(),
        "runs": [],
    }
    for number, seed in enumerate(arguments.seeds):
        started = time.perf_counter()
        overrides = (
            f"output={arguments.out / f'medical-o1-500-seed-{seed}'}",
            f"train.seed={seed}",
            f"evaluation.decoding.seed={seed}",
            *(OTHERS if number else ()),
            *arguments.overrides,
        )
        result = run(
            load_recipe(RECIPE, overrides=overrides), display=TerminalDisplay(console), resume=True
        )
        seconds = time.perf_counter() - started
        document["runs"].append({"seed": seed, "seconds": round(seconds, 1), **figures(result)})
        loss = document["runs"][-1]["held_out"]["loss"]
        console.print(f"seed {seed}: {seconds:.0f} s, loss {loss}", markup=False)
        arguments.result.write_text(json.dumps(jsonable(document), indent=2) + "\n")
    falls = [one["held_out"]["loss"]["interval"][1] < 0 for one in document["runs"]]
    return 0 if all(falls) else 1


def together(arguments: argparse.Namespace) -> int:
    """All seeds at once; their parts, and at the end the whole, are in the order of the seeds."""
    arguments.out.mkdir(parents=True, exist_ok=True)
    parts = [arguments.out / f"seed-{seed}.json" for seed in arguments.seeds]
    children = []
    for number, (seed, part) in enumerate(zip(arguments.seeds, parts, strict=True)):
        command = [sys.executable, __file__, "--seeds", str(seed), "--result", str(part)]
        command += ["--out", str(arguments.out), *(OTHERS if number else ()), *arguments.overrides]
        children.append(subprocess.Popen(command))
    codes = [child.wait() for child in children]
    documents = [json.loads(part.read_text("utf-8")) for part in parts if part.exists()]
    if not documents:
        return 1
    runs = [one for document in documents for one in document["runs"]]
    whole = {**documents[0], "command": "python " + " ".join(sys.argv), "runs": runs}
    arguments.result.write_text(json.dumps(whole, indent=2) + "\n")
    return max(codes)


def figures(result: RunResult) -> dict[str, Any]:
    """All comparisons of a run as figures, without any text of a case."""
    evaluation, evidence = result.evaluation, result.evidence
    assert evaluation is not None
    compared = evidence.benchmarks
    return {
        "training": {
            "steps": result.training.final_step,
            "seconds": round(result.training.seconds, 1),
            "target_tokens": result.training.num_targets,
        },
        "headline": evaluation.summary.headline,
        "held_out": comparison(evaluation.main),
        "benchmarks": {
            f"{one.benchmark}: {one.before} -> {one.after}": comparison(one)
            for one in (compared.comparisons if compared else ())
        },
        "calibration": {
            f"{arm.benchmark}: {arm.name}": {
                "cases": arm.calibration.num_cases,
                "error": round(arm.calibration.error, 4),
                "by_luck": round(arm.calibration.error_by_luck, 4),
                "brier": round(arm.calibration.brier, 4),
                "brier_of_no_idea": round(arm.calibration.brier_of_no_idea, 4),
            }
            for arm in (compared.arms if compared else ())
            if arm.calibration is not None
        },
        "wrong_hints": [
            {
                "arm": one.name,
                "cases": one.num_cases,
                "followed": one.followed,
                "same_without": one.same_without,
                "interval": one.interval and [one.interval.low, one.interval.high],
            }
            for one in evidence.misled
        ],
        "overlap": [
            {
                "with": one.benchmark or "held out",
                "items": one.num_items,
                "repeated": len(one.repeated),
            }
            for one in evidence.overlaps
        ],
    }


def comparison(one: Any) -> dict[str, Any]:
    return {
        metric.name: {
            "cases": metric.num_cases,
            "before": round(metric.before, 4),
            "after": round(metric.after, 4),
            "difference": round(metric.difference, 4),
            "interval": metric.interval
            and [round(metric.interval.low, 4), round(metric.interval.high, 4)],
            "adjusted_p": metric.adjusted_p_value,
            "verdict": metric.verdict,
        }
        for metric in one.metrics
    }


if __name__ == "__main__":
    sys.exit(main())

"""How close each exported file is to the model that was trained, through llama.cpp.

    python benchmarks/gguf_fidelity.py --run runs/starter

Every quantisation of a run's model, merged into the dequantised weights that were trained against
and into the checkpoint's own; K-quants with an importance matrix of training rows too; and the
adapter as a file of its own over an F16 base, switched on, against the merged F16 file, at the same
places and over the whole vocabulary.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import importlib.metadata
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from medimind.cases.prepare import prepare_cases
from medimind.config.recipe import Recipe
from medimind.engines.engine import Variant
from medimind.engines.llama_cpp import LlamaCppEngine
from medimind.export.deliver import (
    Delivered,
    deliver_gguf,
    deliver_gguf_adapter,
)
from medimind.export.trained import make_reference, open_trained
from medimind.export.verify import Probe
from medimind.tracking.run_folder import open_run_folder

RESULT = Path(__file__).parent / "results" / "gguf_fidelity.json"
QUANTIZATIONS = ("f32", "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q4_k_m")
CALIBRATED = ("q6_k", "q5_k_m", "q4_k_m")


class Quiet:
    """Shows nothing but the end of each piece of work."""

    def note(self, text: str) -> None:
        """A fact."""
        print(" ", text, flush=True)

    def progress(self, title: str, done: int, total: int) -> None:
        """Work done so far."""
        if done == total:
            print(" ", title, flush=True)


def whole_logprobs(path: Path, probes: Sequence[Probe], adapter: Path | None = None) -> np.ndarray:
    """Log-probabilities (places, V) of a file, its adapter switched on if there is one."""
    engine = LlamaCppEngine(path, adapter=adapter, context=512)
    variant: Variant = "tuned" if adapter else "base"
    size = engine.tokenizer.vocab_size
    rows = []
    for probe in probes:
        for place in probe.places:
            found = engine.next_logprobs(probe.token_ids[:place], most=size, variant=variant)
            rows.append([found.get(token_id, -np.inf) for token_id in range(size)])
    engine.close()
    return np.array(rows)


def difference(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    """Between two sets of log-probabilities; logits are compared after their mean is taken off."""
    finite = np.isfinite(a).all(axis=0) & np.isfinite(b).all(axis=0)
    a, b = a[:, finite], b[:, finite]
    kl = np.sum(np.exp(a) * (a - b), axis=1)
    logits_a, logits_b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    spread = logits_a.std()
    gap = np.abs(logits_a - logits_b)
    return {
        "kl_mean": float(kl.mean()),
        "kl_most": float(kl.max()),
        "logit_gap_mean": float(gap.mean()),
        "logit_gap_most": float(gap.max()),
        "logit_gap_rms_over_spread": float(np.sqrt(np.mean(gap**2)) / spread),
        "same_likeliest": float(np.mean(a.argmax(axis=1) == b.argmax(axis=1))),
    }


def row_of(one: Delivered) -> dict[str, Any]:
    assert one.fidelity is not None
    found = dataclasses.asdict(one.fidelity)
    return {
        "quantization": one.file.quantization,
        "merged_into": one.base,
        "bytes": one.file.num_bytes,
        "types": dict(one.file.kinds),
        **{key: round(value, 6) for key, value in found.items()},
        "problems": list(one.problems),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--run", type=Path, required=True, help="a trained run")
    parser.add_argument("--cases", type=int, default=30, help="held-out cases that are compared")
    parser.add_argument("--places", type=int, default=16, help="places in each")
    parser.add_argument("--calibration", type=int, default=60, help="training rows")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    export = {"verify_cases": arguments.cases, "verify_places": arguments.places}
    folder, recipe = open_run_folder(
        arguments.run, overrides=[f"export.{key}={value}" for key, value in export.items()]
    )
    calibrated: Recipe = recipe.model_copy(
        update={
            "export": recipe.export.model_copy(update={"calibration_cases": arguments.calibration})
        }
    )
    watch = Quiet()
    model = open_trained(folder, recipe)
    cases = prepare_cases(recipe.data, base_folder=Path.cwd(), seed=recipe.train.seed)
    reference = make_reference(recipe, model, cases.held_out, watch=watch)
    common = {"reference": reference, "train": cases.train, "watch": watch}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        plain = deliver_gguf(
            folder,
            recipe,
            model,
            out,
            quantizations=QUANTIZATIONS,
            bases=("trained", "original"),
            **common,
        )
        with_matrix = deliver_gguf(
            folder,
            calibrated,
            model,
            out / "calibrated",
            quantizations=CALIBRATED,
            bases=("trained",),
            **common,
        )
        apart = deliver_gguf_adapter(
            folder,
            recipe,
            model,
            out,
            base_quantizations=("f16", "q8_0", "q4_k_m"),
            reference=reference,
            watch=watch,
        )
        merged = {one.file.quantization: one.file.path for one in plain if one.base == "trained"}
        probes = reference.probes[:4]
        f16 = whole_logprobs(merged["f16"], probes)
        toggled = whole_logprobs(apart[1].file.path, probes, adapter=apart[0].file.path)
        f32 = whole_logprobs(merged["f32"], probes)
    names = ("medimind", "torch", "gguf", "xllamacpp")
    result = {
        "model": f"{Path(model.name).name}, run of the recipe {recipe.name}",
        "places": sum(len(probe.places) for probe in reference.probes),
        "cases": len(reference.probes),
        "files": [row_of(one) for one in plain],
        "with_importance_matrix": [row_of(one) for one in with_matrix],
        "calibration_rows": arguments.calibration,
        "adapter_over_base": [row_of(one) for one in apart[1:]],
        "adapter_bytes": apart[0].file.num_bytes,
        "adapter_on_f16_against_merged_f16": difference(f16, toggled),
        "merged_f16_against_merged_f32": difference(f32, f16),
        "adapter_on_f16_against_merged_f32": difference(f32, toggled),
        "versions": {name: importlib.metadata.version(name) for name in names},
        "date": datetime.datetime.now(tz=datetime.UTC).isoformat(timespec="seconds"),
        "command": "python benchmarks/gguf_fidelity.py --run runs/starter",
    }
    arguments.output.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    for part in ("files", "with_importance_matrix", "adapter_over_base"):
        for row in result[part]:
            print(part, *(row[key] for key in ("quantization", "merged_into", "kl_mean",
                  "kl_p95", "agreement", "bytes")))  # fmt: skip
    for key in result:
        if "against" in key:
            print(key, result[key])


if __name__ == "__main__":
    main()

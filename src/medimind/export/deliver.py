"""A run's result as GGUF files, each verified: what ``medimind export --to gguf`` does."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from medimind.cases.case import Case
from medimind.config.recipe import Recipe
from medimind.engines.engine import NOTICE
from medimind.engines.gguf_engine import find_program, open_gguf_engine
from medimind.errors import EngineError, MissingExtraError
from medimind.export.gguf import (
    About,
    GgufFileWritten,
    export_gguf,
    export_gguf_adapter,
    find_quantization,
    open_weights,
    read_license,
)
from medimind.export.gguf.importance import measure_importance
from medimind.export.gguf.weights import MergeBase, MergedWeights
from medimind.export.trained import Reference, Source, Watch, rendered
from medimind.export.verify import (
    LONGEST,
    Fidelity,
    compare_with_reference,
)
from medimind.models.checkpoint import open_checkpoint
from medimind.models.load import Model
from medimind.tracking.run_folder import VERIFICATION, RunFolder, write_atomically


@dataclass(frozen=True, slots=True)
class Delivered:
    """A file with what is known of it.

    Attributes:
        file: What was written.
        base: What the adapter was merged into; ``None`` for an adapter of its own.
        fidelity: How close it is to the trained model; ``None`` where it was not verified.
        problems: Why it cannot be called good.
    """

    file: GgufFileWritten
    base: MergeBase | None
    fidelity: Fidelity | None
    problems: tuple[str, ...]


def check_can_verify() -> None:
    """Refuse before anything is written, where no file could be held against the model.

    Raises:
        EngineError: If no package that runs GGUF files is installed.
    """
    try:
        find_program()
    except MissingExtraError as error:
        raise EngineError(
            f"GGUF files cannot be verified: {error.message}",
            fix=f"{error.fix}, or leave it out with --no-verify",
        ) from error


def deliver_gguf(
    folder: RunFolder,
    recipe: Recipe,
    model: Model | Source,
    output: Path,
    *,
    quantizations: Sequence[str],
    bases: Sequence[MergeBase],
    reference: Reference | None,
    train: Sequence[Case] = (),
    watch: Watch,
) -> list[Delivered]:
    """Write the tuned model in each quantisation, merged into each base, and verify each file.

    Args:
        folder: The run.
        recipe: Its recipe.
        model: Its model, adapter on; its `Source` where nothing is verified or calibrated.
        output: Folder to write to.
        quantizations: Names such as ``q8_0``.
        bases: What to merge into.
        reference: What to verify against; ``None`` verifies nothing.
        train: Training cases, for the importance matrix where the recipe asks for one.
        watch: Gets progress.

    Raises:
        ExportError: If a file cannot be written.
        CheckpointError: If the base model cannot be read.
    """
    importance = None
    if recipe.export.calibration_cases and train and isinstance(model, Model):
        rows = rendered(recipe, model, train[: recipe.export.calibration_cases]).prompts
        importance = measure_importance(
            model, rows, progress=lambda done, total: watch.progress("calibration", done, total)
        )
    delivered = []
    for base in bases:
        weights = _weights(folder, recipe, model, base, merged=True)
        for name in quantizations:
            quantization = find_quantization(name)
            suffix = f"-{base}" if len(bases) > 1 else ""
            path = output / f"{recipe.name}-{quantization.name}{suffix}.gguf"
            file = export_gguf(
                weights,
                path,
                quantization=quantization.name,
                model=model.path,
                about=about_run(recipe, model),
                prompt=recipe.prompt,
                importance=importance,
                progress=lambda done, total, title=path.name: watch.progress(title, done, total),
            )
            delivered.append(_verified(file, base, recipe, reference, watch=watch))
    return delivered


def deliver_gguf_adapter(
    folder: RunFolder,
    recipe: Recipe,
    model: Model | Source,
    output: Path,
    *,
    base_quantizations: Sequence[str] = (),
    base: MergeBase = "trained",
    reference: Reference | None,
    watch: Watch,
) -> list[Delivered]:
    """Write the adapter as a GGUF LoRA, perhaps with base models for it to be laid over.

    It is verified on each of these; without any, on the run's own base model if that is a GGUF
    file.

    Args:
        folder: The run.
        recipe: Its recipe.
        model: Its model, adapter on, or its `Source`.
        output: Folder to write to.
        base_quantizations: Of the base models.
        base: Whether these are the weights that were trained against, or the checkpoint's own.
        reference: What to verify against; ``None`` verifies nothing.
        watch: Gets progress.

    Returns:
        The adapter first (as close as it is on the first base), then each base with the adapter on.

    Raises:
        ExportError: If a file cannot be written.
    """
    file = export_gguf_adapter(
        folder.adapter,
        output / f"{recipe.name}-adapter.gguf",
        architecture=open_checkpoint(model.path).architecture,
        about=about_run(recipe, model),
        prompt=recipe.prompt,
    )
    if not base_quantizations:
        on = model.path if model.path.is_file() else None
        return [_verified(file, None, recipe, reference if on else None, watch=watch, on=on)]
    weights = _weights(folder, recipe, model, base, merged=False)
    delivered = []
    for name in base_quantizations:
        quantization = find_quantization(name).name
        path = output / f"{recipe.name}-base-{quantization}.gguf"
        written = export_gguf(
            weights,
            path,
            quantization=quantization,
            model=model.path,
            about=dataclasses.replace(about_run(recipe, model), name=Path(model.name).name),
            progress=lambda done, total, title=path.name: watch.progress(title, done, total),
        )
        found = _verified(file, base, recipe, reference, watch=watch, on=path)
        delivered.append(dataclasses.replace(found, file=written))
    return [dataclasses.replace(delivered[0], file=file, base=None), *delivered]


def _weights(
    folder: RunFolder, recipe: Recipe, model: Model | Source, base: MergeBase, *, merged: bool
) -> MergedWeights:
    return open_weights(
        model.path,
        adapter=folder.adapter if merged else None,
        base=base,
        nf4=model.quantization == "nf4",
        double_quantization=recipe.model.double_quantization,
        dtype=model.dtype,
        base_sha256=model.sha256,
    )


def about_run(recipe: Recipe, model: Model | Source) -> About:
    """What a file says of the run that it comes from."""
    license_ = read_license(model.path)
    return About(
        name=f"{Path(model.name).name} tuned by {recipe.name}",
        license=license_.id,
        license_name=license_.name,
        license_link=license_.link,
        base_model=model.name,
        tags=("medical", "reasoning", "lora"),
        description=NOTICE,
    )


def write_verification(output: Path, delivered: Sequence[Delivered]) -> Path:
    """Keep what was found beside the files."""
    rows: list[dict[str, Any]] = [
        {
            "file": one.file.path.name,
            "quantization": one.file.quantization,
            "merged_into": one.base,
            "bytes": one.file.num_bytes,
            "tensor_types": dict(one.file.kinds),
            "seconds": round(one.file.seconds, 2),
            "fidelity": dataclasses.asdict(one.fidelity) if one.fidelity else None,
            "problems": list(one.problems),
        }
        for one in delivered
    ]
    path = output / VERIFICATION
    write_atomically(path, json.dumps(rows, indent=2) + "\n")
    return path


def better_base(delivered: Sequence[Delivered]) -> MergeBase | None:
    """The base whose files are closer to the trained model, by mean KL."""
    means: dict[MergeBase, float] = {}
    bases: set[MergeBase] = {one.base for one in delivered if one.base is not None}
    for base in bases:
        found = [one.fidelity for one in delivered if one.base == base]
        if all(found):
            means[base] = float(np.mean([one.kl_mean for one in found if one is not None]))
    return min(means, key=lambda base: means[base]) if len(means) > 1 else None


def _verified(
    file: GgufFileWritten,
    base: MergeBase | None,
    recipe: Recipe,
    reference: Reference | None,
    *,
    watch: Watch,
    on: Path | None = None,
) -> Delivered:
    if reference is None:
        return Delivered(file, base, None, ())
    show: Callable[[int, int], None] = lambda done, total: watch.progress(  # noqa: E731
        f"verifying {file.path.name}", done, total
    )
    engine = open_gguf_engine(
        on or file.path, adapter=file.path if on else None, context=LONGEST + 8
    )
    try:
        fidelity = compare_with_reference(
            engine,
            reference.probes,
            reference.logprobs,
            texts=reference.texts,
            variant="tuned" if on else "base",
            progress=show,
        )
    finally:
        engine.close()
    problems = fidelity.problems(
        max_kl=recipe.export.max_kl, min_agreement=recipe.export.min_agreement
    )
    return Delivered(file, base, fidelity, tuple(problems))

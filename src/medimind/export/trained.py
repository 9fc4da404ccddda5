"""What a run trained, opened for export: whole, or its headers alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from medimind.cases.case import Case
from medimind.config.recipe import Recipe
from medimind.errors import ExportError
from medimind.export.verify import Probe, make_probes, reference_logprobs
from medimind.models.adapter import load_adapter
from medimind.models.checkpoint import open_checkpoint
from medimind.models.load import Model, hash_files, load_model, pick_device, pick_dtype
from medimind.models.resolve import resolve_model
from medimind.prompts.render import RenderedCases, render_cases
from medimind.prompts.templates import get_template
from medimind.tracking.run_folder import RunFolder, trained_adapter


class Watch(Protocol):
    """Where an export shows what it does."""

    def note(self, text: str) -> None:
        """A fact."""
        ...

    def progress(self, title: str, done: int, total: int) -> None:
        """Work done so far."""
        ...


@dataclass(frozen=True, slots=True)
class Reference:
    """What files are held against.

    Attributes:
        model: The trained model.
        probes: Places of held-out text.
        logprobs: What the trained model says there.
        texts: Rendered prompts and outputs of the cases.
    """

    model: Model
    probes: list[Probe]
    logprobs: list[NDArray[np.float32]]
    texts: list[str]


@dataclass(frozen=True, slots=True)
class Source:
    """A run's base model, of which nothing but headers has been read.

    Attributes:
        name: As in `Model`, like all that follow.
        path: Of the checkpoint.
        sha256: Digest of its weights.
        dtype: The compute dtype of training.
        quantization: ``nf4`` or ``none``.
    """

    name: str
    path: Path
    sha256: str
    dtype: torch.dtype
    quantization: str


def open_source(folder: RunFolder, recipe: Recipe) -> Source:
    """The run's base model for an export that asks it nothing: an 8B needs no memory then.

    Raises:
        AdapterError: If the run has no adapter yet.
        CheckpointError: If the weights are missing or damaged.
    """
    trained_adapter(folder)
    resolved = resolve_model(recipe.model.path, revision=recipe.model.revision)
    return Source(
        name=resolved.name,
        path=resolved.path,
        sha256=hash_files(open_checkpoint(resolved.path).files),
        dtype=pick_dtype(recipe.model.dtype, device=pick_device(recipe.model.device)),
        quantization=recipe.model.quantization,
    )


def open_trained(folder: RunFolder, recipe: Recipe) -> Model:
    """The run's model with its adapter.

    Raises:
        AdapterError: If the run has no adapter yet.
    """
    adapter = trained_adapter(folder)
    model = load_model(recipe.model)
    load_adapter(adapter, model.decoder, base_sha256=model.sha256)
    return model


def make_reference(
    recipe: Recipe, model: Model, held_out: Sequence[Case], *, watch: Watch
) -> Reference:
    """What the trained model says at places of the held-out cases' text.

    Raises:
        ExportError: If there is no held-out case.
    """
    settings = recipe.export
    prompts = rendered(recipe, model, held_out).prompts
    probes = make_probes(
        prompts, most_prompts=settings.verify_cases, places_each=settings.verify_places
    )
    if not probes:
        raise ExportError(
            "the run has no held-out cases to verify the export on",
            fix="Export with --no-verify, or set data.held_out.rows and train again",
        )
    watch.note(f"verifying at {sum(len(p.places) for p in probes)} places of {len(probes)} cases")
    texts = [model.tokenizer.decode(prompt.token_ids_S) for prompt in prompts]
    texts += [case.question for case in held_out]
    return Reference(model, probes, reference_logprobs(model, probes), texts)


def rendered(recipe: Recipe, model: Model, cases: Sequence[Case]) -> RenderedCases:
    """The cases as the run trained on them."""
    return render_cases(
        cases,
        template=get_template(recipe.prompt),
        tokenizer=model.tokenizer,
        with_options=recipe.prompt.show_options,
    )

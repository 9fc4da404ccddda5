"""The GGUF files of a run: written, verified, and told in one report beside them."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from medimind.cases.prepare import PreparedCases, prepare_cases
from medimind.config.recipe import Recipe
from medimind.errors import EngineError
from medimind.export.deliver import (
    Delivered,
    check_can_verify,
    deliver_gguf,
    deliver_gguf_adapter,
    write_verification,
)
from medimind.export.gguf import MergeBase, find_quantization
from medimind.export.trained import Watch, make_reference, open_source, open_trained
from medimind.models.load import Model
from medimind.tracking.run_folder import VERIFICATION, RunFolder


@dataclass(frozen=True, slots=True)
class Loaded:
    """What a run has in memory when it ends.

    Attributes:
        model: The trained model, adapter on.
        cases: Its cases.
    """

    model: Model
    cases: PreparedCases


def export_gguf_files(
    folder: RunFolder,
    recipe: Recipe,
    output: Path,
    *,
    quantizations: Sequence[str],
    is_adapter: bool = False,
    bases: Sequence[MergeBase] = ("trained",),
    verify: bool = True,
    loaded: Loaded | None = None,
    watch: Watch,
) -> list[Delivered]:
    """Write a run's GGUF files and ``verification.json`` to ``output``.

    Args:
        folder: The run.
        recipe: Its recipe.
        output: Folder to write to.
        quantizations: Names such as ``q8_0``; of the base models where ``is_adapter``.
        is_adapter: The adapter apart from its base, instead of the merged model.
        bases: What to merge into; an adapter takes the first.
        verify: Hold each file against the trained model.
        loaded: The model and the cases, where they are at hand; read again otherwise, and only if
            something is asked of them.
        watch: Gets progress.

    Raises:
        ExportError: If a quantisation is unknown, or a file cannot be written.
        EngineError: If files are to be verified and the engine is not installed.
    """
    check_quantizations(quantizations)
    if verify:
        check_can_verify()
    reference, train = None, ()
    if verify or recipe.export.calibration_cases:
        loaded = loaded or _load(folder, recipe)
        model, train = loaded.model, loaded.cases.train
        if verify:
            reference = make_reference(recipe, model, loaded.cases.held_out, watch=watch)
    else:
        model = loaded.model if loaded else open_source(folder, recipe)
    if is_adapter:
        delivered = deliver_gguf_adapter(
            folder,
            recipe,
            model,
            output,
            base_quantizations=quantizations,
            base=bases[0],
            reference=reference,
            watch=watch,
        )
    else:
        delivered = deliver_gguf(
            folder,
            recipe,
            model,
            output,
            quantizations=quantizations,
            bases=bases,
            reference=reference,
            train=train,
            watch=watch,
        )
    write_verification(output, delivered)
    return delivered


def export_at_end(
    folder: RunFolder, recipe: Recipe, loaded: Loaded, *, watch: Watch
) -> list[Delivered]:
    """The files that the recipe asks for, if they are not there yet.

    Without llama.cpp they are written all the same, and said to be unverified: a long run must not
    end on a missing package.

    Raises:
        ExportError: If a file cannot be written.
    """
    settings = recipe.export
    if settings.to is None:
        return []
    output = folder.export(settings.to)
    if (output / VERIFICATION).is_file():
        return []
    try:
        check_can_verify()
        verify = True
    except EngineError:
        verify = False
        again = ["medimind", "export", str(folder.path), "--to", settings.to, "--force"]
        again += ["--quant", ",".join(settings.quantizations)]
        again += ["--with-base"] if settings.to == "gguf-adapter" else []
        watch.note(f'not verified: pip install "medimind[local]", then {shlex.join(again)}')
    return export_gguf_files(
        folder,
        recipe,
        output,
        quantizations=settings.quantizations,
        is_adapter=settings.to == "gguf-adapter",
        verify=verify,
        loaded=loaded,
        watch=watch,
    )


def check_quantizations(names: Sequence[str]) -> None:
    """Refuse unknown names, before anything long is begun.

    Raises:
        ExportError: Such a quantisation cannot be written.
    """
    for name in names:
        find_quantization(name)


def _load(folder: RunFolder, recipe: Recipe) -> Loaded:
    model = open_trained(folder, recipe)
    cases = prepare_cases(recipe.data, base_folder=Path.cwd(), seed=recipe.train.seed)
    return Loaded(model, cases)

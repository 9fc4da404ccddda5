"""A run's result as a repository for the hub: safetensors, adapter, GGUF, and a model card."""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from pathlib import Path

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError

from medimind.cases.prepare import PreparedCases
from medimind.config.recipe import Recipe
from medimind.errors import ExportError
from medimind.export.adapter_copy import export_adapter
from medimind.export.card import model_card
from medimind.export.deliver import (
    Delivered,
    deliver_gguf,
    write_verification,
)
from medimind.export.gguf import read_license
from medimind.export.merge import export_merged
from medimind.export.trained import Watch, make_reference
from medimind.formats.folder import atomic_folder
from medimind.models.load import Model
from medimind.tracking.run_folder import RunFolder, write_atomically

logger = logging.getLogger(__name__)

PARTS = ("merged", "adapter", "gguf")
CARD = "README.md"
_REPO = re.compile(r"[\w.-]{1,96}/[\w.-]{1,96}")


def check_repo(repo: str) -> None:
    """Refuse what the hub would not take as a name.

    Raises:
        ExportError: If it is not ``owner/name``.
    """
    if not _REPO.fullmatch(repo):
        raise ExportError("not the name of a repository", where=repr(repo), fix="Write owner/name")


def write_repository(
    folder: RunFolder,
    recipe: Recipe,
    model: Model,
    cases: PreparedCases,
    output: Path,
    *,
    repo: str,
    parts: Sequence[str],
    quantizations: Sequence[str],
    verify: bool,
    watch: Watch,
) -> list[Delivered]:
    """Write everything that a repository on the hub holds.

    Args:
        folder: The run.
        recipe: Its recipe.
        model: Its model, adapter on.
        cases: Its cases: GGUF files are held against the trained model on the held-out ones.
        output: Folder to write; replaced.
        repo: ``owner/name``.
        parts: Of `PARTS`.
        quantizations: Of the GGUF files.
        verify: Whether they are verified.
        watch: Gets progress.

    Returns:
        The GGUF files.

    Raises:
        ExportError: If a file cannot be written, or is not close enough to the trained model.
    """
    if "merged" in parts:
        export_merged(model, output, prompt=recipe.prompt)
    else:
        with atomic_folder(output, error=ExportError):
            pass
    if "adapter" in parts:
        export_adapter(folder.adapter, output / "adapter")
    delivered: list[Delivered] = []
    if "gguf" in parts:
        reference = make_reference(recipe, model, cases.held_out, watch=watch) if verify else None
        delivered = deliver_gguf(
            folder,
            recipe,
            model,
            output,
            quantizations=quantizations,
            bases=("trained",),
            reference=reference,
            train=cases.train,
            watch=watch,
        )
        write_verification(output, delivered)
        refuse_bad(delivered)
    license_ = read_license(model.path)
    if license_.id is None and license_.name is None:
        logger.warning("%s: the licence of the base model is not known; the card says so", output)
    if not recipe.export.data_license and any(s.source != "starter" for s in recipe.data.sources):
        logger.warning("the licence of the data is not known: set export.data_license")
    card = model_card(
        recipe,
        repo=repo,
        base_model=model.name,
        license_=license_,
        parts=parts,
        delivered=delivered,
        provenance=folder.read_json("provenance.json"),
        data=folder.read_json("data.json"),
        report=folder.read_json("report.json"),
    )
    write_atomically(output / CARD, card)
    return delivered


def upload(output: Path, repo: str, *, public: bool) -> str:
    """Send a folder to the hub; the address of the repository.

    Raises:
        ExportError: If the hub cannot be reached or refuses.
    """
    try:
        api = huggingface_hub.HfApi()
        created = api.create_repo(repo, private=not public, exist_ok=True)
        api.upload_folder(
            repo_id=repo, folder_path=output, commit_message="Model, adapter, GGUF and card"
        )
    except (HfHubHTTPError, HFValidationError, OSError, ValueError) as error:
        raise ExportError(
            f"the hub did not take it ({type(error).__name__}: {str(error)[:200]})",
            where=repo,
            fix=f"Log in with: hf auth login. The folder is complete: hf upload {repo} {output}",
        ) from error
    return str(created)


def refuse_bad(delivered: Sequence[Delivered]) -> None:
    """Refuse to send files that are not close enough to the trained model.

    Raises:
        ExportError: If there is one.
    """
    bad = [one for one in delivered if one.problems]
    if bad:
        raise ExportError(
            "; ".join(f"{one.file.path.name}: {', '.join(one.problems)}" for one in bad),
            fix="Nothing was sent. Choose a wider --quant, or other export.max_kl and "
            "export.min_agreement if you can answer for it",
        )

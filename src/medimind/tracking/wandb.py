"""Metrics in Weights & Biases, online or as a file of its own kind in the run folder."""

from __future__ import annotations

import os
import secrets
from collections.abc import Mapping, Sequence
from inspect import signature
from pathlib import Path
from typing import Any, Literal

from medimind.errors import ConfigError, MissingExtraError
from medimind.tracking.tracker import Scalar


class WandbTracker:
    """Records to one W&B run, under the same id after a resume.

    Steps are a metric of their own (``step``) and every chart's axis: W&B's inner counter only
    grows, and would drop what a resumed run trains again. The console is not captured and neither
    code nor git remote is sent: they may hold patients' text or secrets.

    Args:
        folder: The run folder; W&B's files go to ``<folder>/wandb``, the run's id to
            ``<folder>/wandb_id``.
        mode: ``offline`` writes the file only; it needs no account and no network.
        project: W&B project.
        entity: User or team; ``None`` takes the account's own.
        run_name: Name of the run.
        tags: Tags of the run.
        recipe: The resolved recipe, shown as the run's config.
        resume_step: The step the run goes on from; 0 starts a new W&B run.

    Raises:
        MissingExtraError: The package ``wandb`` is not installed.
        ConfigError: ``online``, and there is no API key. It is never asked for at a prompt.
    """

    def __init__(
        self,
        folder: Path,
        *,
        mode: Literal["online", "offline"],
        project: str,
        entity: str | None = None,
        run_name: str | None = None,
        tags: Sequence[str] = (),
        recipe: Mapping[str, Any] | None = None,
        resume_step: int = 0,
    ) -> None:
        wandb = require_wandb(mode)
        folder.mkdir(parents=True, exist_ok=True)
        if not _has_cache():
            os.environ["WANDB_CACHE_DIR"] = str((folder / "wandb" / "cache").resolve())
        self._wandb = wandb
        self._run = wandb.init(
            project=project,
            entity=entity,
            name=run_name,
            tags=list(tags) or None,
            config=dict(recipe or {}),
            dir=str(folder),
            id=_run_id(folder, resume_step=resume_step),
            resume="allow" if mode == "online" else None,
            settings=wandb.Settings(
                mode=mode, silent=True, console="off", disable_git=True, disable_code=True
            ),
        )
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, metrics: Mapping[str, float], *, step: int) -> None:
        """Record one row of history."""
        self._run.log({"step": step, **metrics})

    def log_table(
        self, name: str, *, columns: Sequence[str], rows: Sequence[Sequence[Scalar]]
    ) -> None:
        """Record a ``wandb.Table``; cells become text, because a column of W&B has one type."""
        cells: list[Any] = [["" if cell is None else str(cell) for cell in row] for row in rows]
        self._run.log({name: self._wandb.Table(columns=list(columns), data=cells)})

    def finish(self, summary: Mapping[str, Scalar]) -> None:
        """Record the final figures and close the run."""
        self._run.summary.update(dict(summary))
        self._run.finish()


def require_wandb(mode: Literal["online", "offline"]) -> Any:
    """The package ``wandb``, once it is sure that a run can be recorded.

    Raises:
        MissingExtraError: It is not installed.
        ConfigError: ``online``, and there is no API key.
    """
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    try:
        import wandb
    except ImportError:
        raise MissingExtraError("wandb", extra="wandb") from None
    if mode == "online" and not _has_credentials(wandb):
        raise ConfigError(
            "no API key of Weights & Biases was found",
            where="tracking.wandb.mode",
            fix="Set WANDB_API_KEY, run 'wandb login' once, or use mode: offline",
        )
    return wandb


def _has_cache() -> bool:
    """Whether W&B's service finds a place for its own log.

    Without one (no home, or one that cannot be written) it prints that log over ours.
    """
    if os.environ.get("WANDB_CACHE_DIR") or os.name == "nt":
        return True
    home = os.environ.get("HOME")
    cache = os.environ.get("XDG_CACHE_HOME") or (home and f"{home}/.cache")
    if not cache:
        return False
    logs = Path(cache, "wandb", "logs")
    try:
        logs.mkdir(parents=True, exist_ok=True)  # as it would itself
    except OSError:
        return False
    return os.access(logs, os.W_OK)


def _has_credentials(wandb: Any) -> bool:
    """Whether W&B can log in without asking and without a look at the network."""
    if os.environ.get("WANDB_API_KEY") or os.environ.get("WANDB_IDENTITY_TOKEN_FILE"):
        return True
    if "prompt" in signature(wandb.login).parameters:
        return bool(wandb.login(prompt=False, verify=False))
    return bool(wandb.api.api_key)


def _run_id(folder: Path, *, resume_step: int) -> str:
    """The id written down by the run that is resumed, else a new one, written down."""
    path = folder / "wandb_id"
    if resume_step and path.is_file():
        known = path.read_text(encoding="utf-8").strip()
        if known:
            return known
    fresh = secrets.token_hex(4)
    path.write_text(fresh + "\n", encoding="utf-8")
    return fresh

"""From a recipe's section to the trackers of a run."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from medimind.config import TrackingConfig
from medimind.errors import MediMindError, MissingExtraError
from medimind.tracking.console import ConsoleTracker
from medimind.tracking.jsonl import JsonlTracker
from medimind.tracking.multi import MultiTracker
from medimind.tracking.tensorboard import TensorboardTracker
from medimind.tracking.tracker import Tracker
from medimind.tracking.wandb import WandbTracker, require_wandb


def require_trackers(config: TrackingConfig) -> None:
    """Find out before anything is loaded whether the trackers can record.

    Raises:
        MissingExtraError: A tracker's package is not installed.
        ConfigError: W&B is to be used online without an API key.
    """
    if config.tensorboard and find_spec("tensorboard") is None:
        raise MissingExtraError("tensorboard", extra="tensorboard")
    if config.wandb is not None:
        require_wandb(config.wandb.mode)


def build_trackers(
    config: TrackingConfig,
    folder: Path,
    *,
    run_name: str,
    recipe: Mapping[str, Any],
    resume_step: int = 0,
    extra: tuple[Tracker, ...] = (),
) -> MultiTracker:
    """The trackers of a run: ``metrics.jsonl`` and the log always, others where asked for.

    Args:
        config: The section ``tracking``.
        folder: The run folder.
        run_name: Name of the run, where the section gives none.
        recipe: The resolved recipe, as plain values.
        resume_step: The step the run goes on from; 0 for a new run.
        extra: Further trackers, such as a progress display.

    Raises:
        MissingExtraError: A tracker's package is not installed.
        ConfigError: W&B is to be used online without an API key.
    """
    trackers: list[Tracker] = [
        JsonlTracker(folder / "metrics.jsonl", resume_step=resume_step),
        ConsoleTracker(),
        *extra,
    ]
    if config.tensorboard:
        trackers.append(TensorboardTracker(folder / "tensorboard", resume_step=resume_step))
    failed: Exception | None = None
    if config.wandb:
        try:
            trackers.append(
                WandbTracker(
                    folder,
                    mode=config.wandb.mode,
                    project=config.wandb.project,
                    entity=config.wandb.entity,
                    run_name=config.wandb.run_name or run_name,
                    tags=config.wandb.tags,
                    recipe=recipe,
                    resume_step=resume_step,
                )
            )
        except MediMindError:
            raise
        except Exception as error:
            failed = error
    tracker = MultiTracker(trackers)
    if failed is not None:
        tracker.count_failure("WandbTracker", failed)
    return tracker

"""Saving a session and taking it up again."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError

from medimind.errors import ResumeError, TrainingError
from medimind.training.checkpoint import (
    Checkpoint,
    DamagedCheckpointError,
    checkpoint_folder,
    latest_checkpoint,
    list_steps,
    prune_checkpoints,
    replace_folder,
    same_files,
    sweep_leftovers,
    verify_checkpoint,
    write_checkpoint,
)
from medimind.training.identity import Identity
from medimind.training.optimizer import OPTIMIZER_FILE, load_optimizer, save_optimizer
from medimind.training.session import Session
from medimind.training.state import TrainState, state_from_json, state_to_json
from medimind.training.tensors import ADAPTER_FOLDER, load_adapter_values, require_finite

_log = logging.getLogger(__name__)

STATE_FILE = "state.json"
CHECKPOINTS_FOLDER = "checkpoints"


def resume_step(folder: Path) -> int:
    """The step that a run folder's next session goes on from; 0 where nothing is sound."""
    found = latest_checkpoint(folder / CHECKPOINTS_FOLDER, warn=False)
    return found.step if found else 0


def refuse_unfinished(folder: Path) -> None:
    """Refuse a run folder whose run wants to be resumed, before anything is loaded.

    Raises:
        ResumeError: Its newest sound checkpoint is of an unfinished run.
    """
    found = latest_checkpoint(folder / CHECKPOINTS_FOLDER, warn=False)
    if found is not None and not _read_state(found)[0].finished:
        raise _unfinished(found)


def save_session(session: Session, state: TrainState) -> None:
    """Write the checkpoint of the current step and remove those no longer kept.

    Raises:
        TrainingError: The adapter is not finite, or the disk does not take it.
    """
    require_finite(session.parameters, step=state.step)

    def write(folder: Path) -> None:
        session.save_adapter(folder / ADAPTER_FOLDER)
        save_optimizer(folder / OPTIMIZER_FILE, session.optimizer, parameters=session.parameters)
        text = state_to_json(state, identity=session.identity, environment=session.environment)
        (folder / STATE_FILE).write_text(text, encoding="utf-8")

    try:
        write_checkpoint(session.checkpoints, step=state.step, write=write)
        prune_checkpoints(
            session.checkpoints,
            newest=state.step,
            keep=session.plan.keep_checkpoints,
            keep_steps=_best(session, state),
        )
    except (OSError, SafetensorError) as error:
        raise TrainingError(
            f"the checkpoint of step {state.step} cannot be written: {error}",
            where=str(session.checkpoints),
            fix="Free some space and run again with --resume; the checkpoint before is sound",
        ) from None


def restore_session(session: Session, *, resume: bool) -> TrainState:
    """The state to go on from, with adapter and optimizer put back; step 0 for a new run.

    Raises:
        ResumeError: The newest sound checkpoint is of other settings, or of an unfinished run
            that was not asked to be resumed.
    """
    sweep_leftovers(session.checkpoints)
    found = latest_checkpoint(session.checkpoints)
    if found is None:
        if resume:
            damaged = " sound" if list_steps(session.checkpoints) else ""
            _log.info("no%s checkpoint to resume in %s: step 0", damaged, session.checkpoints)
        return TrainState()
    state, identity, environment = _read_state(found)
    _require_same(identity, session.identity, where=found.folder)
    if state.finished:
        return state
    if not resume:
        raise _unfinished(found)
    _warn_of_environment(environment, session.environment)
    load_adapter_values(found.folder / ADAPTER_FOLDER, session.parameters)
    load_optimizer(
        found.folder / OPTIMIZER_FILE,
        session.optimizer,
        parameters=session.parameters,
        step=state.step,
    )
    state.stop_reason = None
    _log.info("resumed at step %d of %d", state.step, session.plan.num_steps)
    return state


def publish_adapter(session: Session, state: TrainState, *, target: Path) -> int:
    """Put the run's adapter into ``target`` and into the decoder.

    Returns:
        The step it is of: the best one where the plan keeps it, else the last.

    Raises:
        TrainingError: The disk does not take it.
    """
    step = state.step
    for best in _best(session, state):
        try:
            verify_checkpoint(checkpoint_folder(session.checkpoints, best))
            step = best
        except DamagedCheckpointError as error:
            _log.warning(
                "the best checkpoint (step %d) is damaged (%s): the adapter of step %d is taken",
                best,
                error,
                step,
            )
    source = checkpoint_folder(session.checkpoints, step) / ADAPTER_FOLDER
    load_adapter_values(source, session.parameters)
    try:
        if not same_files(source, target):
            replace_folder(source, target)
    except OSError as error:
        raise TrainingError(
            f"the adapter cannot be written: {error}",
            where=str(target),
            fix="Free some space and run again; training is not repeated",
        ) from None
    return step


def _best(session: Session, state: TrainState) -> tuple[int, ...]:
    if session.plan.keep_best and state.best_step is not None:
        return (state.best_step,)
    return ()


def _read_state(found: Checkpoint) -> tuple[TrainState, Identity, Mapping[str, Any]]:
    path = found.folder / STATE_FILE
    try:
        return state_from_json(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ResumeError(
            f"the state cannot be read: {error}",
            where=str(path),
            fix="Resume with the version of MediMind that wrote it, or remove this checkpoint",
        ) from None


def _unfinished(found: Checkpoint) -> ResumeError:
    return ResumeError(
        f"the folder holds a run that ended at step {found.step}",
        where=str(found.folder),
        fix="Go on with --resume, start over with --restart, or choose another output=FOLDER",
    )


def _require_same(saved: Identity, now: Identity, *, where: Path) -> None:
    differences = saved.differences(now)
    if differences:
        more = f"; and {len(differences) - 5} more" if len(differences) > 5 else ""
        raise ResumeError(
            f"the checkpoint is of another run: {'; '.join(differences[:5])}{more}",
            where=str(where),
            fix="Take the settings it was started with, or choose another folder",
        )


def _warn_of_environment(saved: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    changed = [
        f"{key} {saved.get(key)} -> {now[key]}" for key in sorted(now) if saved.get(key) != now[key]
    ]
    if changed:
        _log.warning(
            "resumed in another environment (%s): results may differ in their last bits",
            ", ".join(changed),
        )

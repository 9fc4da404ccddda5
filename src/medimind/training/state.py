"""What a run remembers between steps, and writes into each checkpoint as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from medimind.training.identity import Identity
from medimind.training.loss_scale import LossScale

FORMAT = 1


@dataclass(slots=True)
class TrainState:
    """Everything besides tensors that a run goes on from.

    There are no random states: order of cases and dropout are pure functions of (seed, step).

    Attributes:
        step: Optimizer steps taken.
        history: The logged rows: ``{"step": 1, "train/loss": ...}``.
        held_out_losses: ``(step, loss)`` of each evaluation.
        best_step: Step of the lowest held-out loss.
        best_loss: That loss.
        evaluations_since_best: Evaluations that brought no new best.
        num_tokens: Tokens trained on so far.
        num_targets: Target tokens trained on so far.
        seconds: Wall time of all sessions, up to the last save.
        loss_scale: Factor of the loss (fp16).
        stop_reason: Why the session that saved this ended; ``None`` while it runs.
        finished: Whether nothing is left to do.
    """

    step: int = 0
    history: list[dict[str, float]] = field(default_factory=list)
    held_out_losses: list[tuple[int, float]] = field(default_factory=list)
    best_step: int | None = None
    best_loss: float | None = None
    evaluations_since_best: int = 0
    num_tokens: int = 0
    num_targets: int = 0
    seconds: float = 0.0
    loss_scale: LossScale = field(default_factory=LossScale)
    stop_reason: str | None = None
    finished: bool = False

    def record_held_out_loss(self, loss: float) -> bool:
        """Add an evaluation of the current step; whether it is a new best."""
        self.held_out_losses.append((self.step, loss))
        is_best = self.best_loss is None or loss < self.best_loss
        if is_best:
            self.best_step, self.best_loss, self.evaluations_since_best = self.step, loss, 0
        else:
            self.evaluations_since_best += 1
        return is_best


def state_to_json(state: TrainState, *, identity: Identity, environment: Mapping[str, Any]) -> str:
    """The text of ``state.json``.

    Args:
        state: What the run remembers.
        identity: Whose run it is.
        environment: What may differ after a resume but is worth knowing: versions, threads.
    """
    value = {
        "format": FORMAT,
        **asdict(state),
        "fingerprint": identity.fingerprint,
        "settings": dict(identity.settings),
        "environment": dict(environment),
    }
    return json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n"


def state_from_json(text: str) -> tuple[TrainState, Identity, dict[str, Any]]:
    """State, identity and environment of a ``state.json``.

    Raises:
        ValueError: The text is not what ``state_to_json`` writes.
    """
    try:
        value = json.loads(text)
        if value.pop("format") != FORMAT:
            raise ValueError("state.json is of another version of MediMind")
        identity = Identity(value.pop("fingerprint"), value.pop("settings"))
        environment = value.pop("environment")
        value["loss_scale"] = LossScale(**value["loss_scale"])
        value["held_out_losses"] = [(int(step), loss) for step, loss in value["held_out_losses"]]
        return TrainState(**value), identity, environment
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"state.json misses or has an unknown field: {error}") from None

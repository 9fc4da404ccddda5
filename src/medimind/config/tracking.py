"""Where metrics go besides the run folder."""

from __future__ import annotations

from typing import Literal

from medimind.config.section import Section


class WandbConfig(Section):
    """Weights & Biases; ``offline`` writes its file into the run folder and sends nothing."""

    mode: Literal["online", "offline"] = "online"
    project: str = "medimind"
    entity: str | None = None
    run_name: str | None = None
    tags: tuple[str, ...] = ()


class TrackingConfig(Section):
    """Trackers besides ``metrics.jsonl``, which is always written. None sends anything unasked."""

    wandb: WandbConfig | None = None
    tensorboard: bool = False

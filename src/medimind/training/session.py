"""What a training loop works with, resolved to plain values."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from medimind.models.decoder import Decoder
from medimind.packing.batch import PackedBatch
from medimind.prompts.prompt import Prompt
from medimind.training.identity import Identity
from medimind.training.schedule import Schedule


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """How long and how to train; the attributes are those of the recipe's section ``train``."""

    num_steps: int
    batch_size: int
    tokens_per_batch: int
    peak_learning_rate: float
    schedule: Schedule
    warmup_steps: int
    final_learning_rate_share: float
    max_gradient_norm: float | None
    seed: int
    log_every: int
    evaluate_every: int | None
    checkpoint_every: int | None
    keep_checkpoints: int
    keep_best: bool
    patience: int | None
    memory: Literal["auto", "keep", "recompute_cheap", "recompute_layers", "offload"] = "auto"
    fp8: bool = False
    deterministic: bool = True
    moment_bytes: int = 4


@dataclass(frozen=True, slots=True, kw_only=True)
class Session:
    """One process's part of a run.

    Attributes:
        plan: How long and how.
        decoder: The model, with an adapter attached.
        parameters: What is trained, by PEFT name.
        optimizer: Over these parameters.
        train: The cases to learn.
        weights: How often each is taken per epoch; ``None`` means once.
        epoch_length: Cases of one epoch.
        held_out: The held-out cases, packed.
        save_adapter: Writes the adapter as PEFT files into a folder.
        checkpoints: The folder of all checkpoints.
        identity: What a continuation must have in common.
        environment: Versions, threads and device, for the record.
    """

    plan: Plan
    decoder: Decoder
    parameters: Mapping[str, torch.nn.Parameter]
    optimizer: torch.optim.Optimizer
    train: Sequence[Prompt]
    weights: Sequence[float] | None
    epoch_length: int
    held_out: Sequence[PackedBatch]
    save_adapter: Callable[[Path], object]
    checkpoints: Path
    identity: Identity
    environment: Mapping[str, Any]

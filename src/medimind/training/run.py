"""The stage's entry: from a recipe's section and a model to a trained adapter."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from medimind.config import TrainConfig
from medimind.errors import TrainingError
from medimind.models.adapter import save_adapter
from medimind.models.fused import micro_batch_tokens
from medimind.models.load import Model
from medimind.models.lora import lora_parameters
from medimind.packing.order import epoch_length, num_steps
from medimind.packing.pack import pack
from medimind.prompts.prompt import Prompt
from medimind.tracking.tracker import Tracker
from medimind.training.compute import compute_settings, computed_by
from medimind.training.identity import Identity, training_settings
from medimind.training.loop import run_loop
from medimind.training.loss_scale import initial_loss_scale
from medimind.training.optimizer import MOMENT_BYTES, make_optimizer
from medimind.training.resume import CHECKPOINTS_FOLDER, publish_adapter, restore_session
from medimind.training.session import Plan, Session
from medimind.training.stop import TimeLimit

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainResult:
    """What a training run came to.

    Attributes:
        final_step: Optimizer steps taken.
        num_steps: Optimizer steps planned.
        finished: Whether nothing is left to do; ``False`` after a signal or the time limit.
        already_finished: Whether the run was finished before, and nothing was done now.
        resumed_from: The step this session started at.
        stop_reason: ``completed``, ``early_stopping``, ``signal`` or ``time_limit``.
        adapter_step: The step of the adapter in ``<folder>/adapter``; ``None`` while unfinished.
        best_step: Step of the lowest held-out loss.
        held_out_losses: ``(step, loss)`` of each evaluation.
        history: The logged rows.
        seconds: Wall time of all sessions.
        num_tokens: Tokens trained on.
        num_targets: Target tokens trained on.
        num_overflows: fp16 attempts that were repeated with a lower loss scale.
    """

    final_step: int
    num_steps: int
    finished: bool
    already_finished: bool
    resumed_from: int
    stop_reason: str
    adapter_step: int | None
    best_step: int | None
    held_out_losses: tuple[tuple[int, float], ...]
    history: tuple[dict[str, float], ...]
    seconds: float
    num_tokens: int
    num_targets: int
    num_overflows: int


def train(
    config: TrainConfig,
    *,
    model: Model,
    train: Sequence[Prompt],
    weights: Sequence[float] | None = None,
    held_out: Sequence[Prompt] = (),
    tracker: Tracker,
    folder: Path,
    fingerprint: str,
    resume: bool = False,
    started: float | None = None,
) -> TrainResult:
    """Train the model's adapter; the run's checkpoints and adapter go to ``folder``.

    Args:
        config: The section ``train``.
        model: The base model, with an adapter attached to its decoder.
        train: The cases to learn.
        weights: How often each is taken per epoch; ``None`` means once.
        held_out: Cases for the held-out loss.
        tracker: Told of each logged step; it is not finished here.
        folder: The run folder.
        fingerprint: Of all that decides what is learned; a resumed run must have the same.
        resume: Go on from the newest sound checkpoint, where there is one.
        started: When ``max_hours`` began to run (``time.monotonic()``); ``None`` means now.

    Raises:
        TrainingError: Training cannot go on; ``NonFiniteError`` and ``ResumeError`` are kinds of
            it.
        PackingError: There are no cases, or a weight is not a positive number.
    """
    time_limit = TimeLimit(config.max_hours, started=started)
    with compute_settings(threads=config.threads, device=model.device):
        session = _make_session(config, model, train, weights, held_out, folder, fingerprint)
        state = restore_session(session, resume=resume)
        already_finished, resumed_from = state.finished, state.step
        if already_finished:
            _log.info("the run is finished (%s): nothing to do", state.stop_reason)
        else:
            if state.step == 0:
                state.loss_scale = initial_loss_scale(is_float16=model.dtype == torch.float16)
            run_loop(session, state, tracker=tracker, time_limit=time_limit)
        adapter_step = None
        if state.finished:
            adapter_step = publish_adapter(session, state, target=folder / "adapter")
    return TrainResult(
        final_step=state.step,
        num_steps=session.plan.num_steps,
        finished=state.finished,
        already_finished=already_finished,
        resumed_from=resumed_from,
        stop_reason=state.stop_reason or "completed",
        adapter_step=adapter_step,
        best_step=state.best_step,
        held_out_losses=tuple(state.held_out_losses),
        history=tuple(state.history),
        seconds=state.seconds,
        num_tokens=state.num_tokens,
        num_targets=state.num_targets,
        num_overflows=state.loss_scale.overflows,
    )


def planned_steps(
    config: TrainConfig, *, num_rows: int, weights: Sequence[float] | None = None
) -> int:
    """Optimizer steps of the whole run."""
    if config.steps is not None:
        return config.steps
    if config.epochs is None:
        raise AssertionError("a TrainConfig has steps or epochs")
    return num_steps(
        config.epochs, num_rows=num_rows, batch_size=config.batch_size, weights=weights
    )


def _make_session(
    config: TrainConfig,
    model: Model,
    train: Sequence[Prompt],
    weights: Sequence[float] | None,
    held_out: Sequence[Prompt],
    folder: Path,
    fingerprint: str,
) -> Session:
    parameters = lora_parameters(model.decoder)
    if not parameters:
        raise TrainingError("the model has no adapter to train", fix="Attach one first")
    length = epoch_length(len(train), weights)
    tokens_per_batch = config.micro_batch_tokens or micro_batch_tokens(
        model.decoder,
        longest=config.max_length,
        batch_size=config.batch_size,
        memory=config.memory,
        fp8=config.precision == "fp8",
        deterministic=config.deterministic,
        moment_bytes=MOMENT_BYTES[config.optimizer],
    )
    _require_room(train, tokens_per_batch=tokens_per_batch)
    longest = max((len(prompt.token_ids_S) for prompt in held_out), default=0)
    packed = pack(held_out, tokens_per_batch=max(tokens_per_batch, longest))
    return Session(
        plan=_make_plan(config, len(train), weights, tokens_per_batch),
        decoder=model.decoder,
        parameters=parameters,
        optimizer=make_optimizer(
            parameters,
            name=config.optimizer,
            betas=config.betas,
            epsilon=config.epsilon,
            weight_decay=config.weight_decay,
        ),
        train=train,
        weights=weights,
        epoch_length=length,
        held_out=[batch for batch in packed if batch.num_targets],
        save_adapter=lambda target: save_adapter(
            target,
            model.decoder,
            base_model_name=model.name,
            revision=model.revision,
            base_sha256=model.sha256,
        ),
        checkpoints=folder / CHECKPOINTS_FOLDER,
        identity=Identity(fingerprint, training_settings(config, train, weights, held_out)),
        environment={
            **computed_by(model.device),
            "micro_batch_tokens": tokens_per_batch,
            "memory": config.memory,
        },
    )


def _make_plan(
    config: TrainConfig, num_rows: int, weights: Sequence[float] | None, tokens_per_batch: int
) -> Plan:
    return Plan(
        num_steps=planned_steps(config, num_rows=num_rows, weights=weights),
        batch_size=config.batch_size,
        tokens_per_batch=tokens_per_batch,
        peak_learning_rate=config.learning_rate,
        schedule=config.schedule,
        warmup_steps=config.warmup_steps,
        final_learning_rate_share=config.final_learning_rate_share,
        max_gradient_norm=config.max_gradient_norm,
        seed=config.seed,
        log_every=config.log_every,
        evaluate_every=config.evaluate_every,
        checkpoint_every=config.checkpoint_every,
        keep_checkpoints=config.keep_checkpoints,
        keep_best=config.keep_best,
        patience=config.early_stopping_patience,
        memory=config.memory,
        fp8=config.precision == "fp8",
        deterministic=config.deterministic,
        moment_bytes=MOMENT_BYTES[config.optimizer],
    )


def _require_room(prompts: Sequence[Prompt], *, tokens_per_batch: int) -> None:
    """Find a row that is longer than a micro-batch now, not at the step that takes it."""
    for prompt in prompts:
        if len(prompt.token_ids_S) > tokens_per_batch:
            raise TrainingError(
                f"{len(prompt.token_ids_S)} tokens do not fit into a micro-batch of "
                f"{tokens_per_batch}",
                where=prompt.case_id,
                fix="Raise train.micro_batch_tokens, or lower train.max_length",
            )

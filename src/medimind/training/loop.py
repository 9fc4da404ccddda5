"""The training loop."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from medimind.errors import TrainingError
from medimind.models.fused import training_loss
from medimind.models.lora import seed_dropout
from medimind.packing.batch import PackedBatch
from medimind.packing.order import step_rows
from medimind.packing.pack import pack
from medimind.tracking.tracker import Tracker
from medimind.training.memory import peak_memory_gib
from medimind.training.resume import save_session
from medimind.training.schedule import learning_rate
from medimind.training.session import Plan, Session
from medimind.training.state import TrainState
from medimind.training.step import LossSum, StepResult, mean_loss, take_step
from medimind.training.stop import SignalStop, TimeLimit


def run_loop(
    session: Session, state: TrainState, *, tracker: Tracker, time_limit: TimeLimit
) -> None:
    """Train until the plan, early stopping, a signal or the time limit ends it; saved when it does.

    Args:
        session: What to train, on what, and how.
        state: Where to start; changed in place. Its ``stop_reason`` tells what ended the loop:
            ``completed``, ``early_stopping``, ``signal`` or ``time_limit``.
        tracker: Told of each logged step.
        time_limit: Asked after each step whether another one fits.

    Raises:
        NonFiniteError: A loss or gradient is not finite; nothing of that step is kept.
        TrainingError: A step teaches nothing, memory runs out, or a save fails.
    """
    plan, decoder = session.plan, session.decoder
    seconds_before, started = state.seconds, time.monotonic()

    with _within_memory(session, where="the buffers of a step"):
        batch_loss = training_loss(
            decoder,
            num_tokens=plan.tokens_per_batch,
            rows=plan.batch_size,
            longest=max((len(row.token_ids_S) for row in session.train), default=None),
            memory=plan.memory,
            fp8=plan.fp8,
            deterministic=plan.deterministic,
            moment_bytes=plan.moment_bytes,
        )

    def loss_sum(batch: PackedBatch, seed: int) -> torch.Tensor:
        seed_dropout(decoder, seed)
        return batch_loss(batch)

    with SignalStop() as signals:
        while state.stop_reason is None:
            step_started = time.monotonic()
            rate = _rate(plan, state.step)
            result = _one_step(session, state, loss_sum, rate=rate)
            step_seconds = time.monotonic() - step_started
            time_limit.note("step", step_seconds)

            is_last = state.step == plan.num_steps
            metrics: dict[str, float] = {}
            if state.step % plan.log_every == 0 or is_last:
                metrics = _metrics(session, state, result, rate=rate, seconds=step_seconds)
            is_best = False
            if session.held_out and (is_last or _due(state.step, plan.evaluate_every)):
                evaluation_started = time.monotonic()
                with _within_memory(session, where=f"held-out loss after step {state.step}"):
                    loss = mean_loss(session.held_out, loss_sum=loss_sum, step=state.step)
                is_best = state.record_held_out_loss(loss)
                metrics["held_out/loss"] = loss
                time_limit.note("evaluation", time.monotonic() - evaluation_started)
            if metrics:
                state.history.append({"step": state.step, **metrics})
                tracker.log(metrics, step=state.step)

            state.stop_reason = _stop_reason(plan, state, signals, time_limit)
            state.finished = state.stop_reason in ("completed", "early_stopping")
            state.seconds = seconds_before + time.monotonic() - started
            if (
                state.stop_reason
                or _due(state.step, plan.checkpoint_every)
                or (is_best and plan.keep_best)
            ):
                save_started = time.monotonic()
                save_session(session, state)
                time_limit.note("save", time.monotonic() - save_started)


def _one_step(session: Session, state: TrainState, loss_sum: LossSum, *, rate: float) -> StepResult:
    """Take the next step and note it in ``state``; its rows follow from its number and the seed."""
    plan, decoder = session.plan, session.decoder
    rows = step_rows(
        state.step,
        num_rows=len(session.train),
        batch_size=plan.batch_size,
        seed=plan.seed,
        weights=session.weights,
    )
    batches = pack([session.train[row] for row in rows], tokens_per_batch=plan.tokens_per_batch)
    decoder.train()
    try:
        with _within_memory(session, where=f"step {state.step + 1}"):
            result = take_step(
                batches,
                step=state.step + 1,
                seed=plan.seed,
                loss_sum=loss_sum,
                parameters=list(session.parameters.values()),
                optimizer=session.optimizer,
                learning_rate=rate,
                max_gradient_norm=plan.max_gradient_norm,
                loss_scale=state.loss_scale,
            )
    finally:
        decoder.eval()
    state.step += 1
    state.num_tokens += result.num_tokens
    state.num_targets += result.num_targets
    state.loss_scale = result.loss_scale
    return result


def _rate(plan: Plan, step: int) -> float:
    return learning_rate(
        step,
        peak=plan.peak_learning_rate,
        schedule=plan.schedule,
        warmup_steps=plan.warmup_steps,
        num_steps=plan.num_steps,
        final_share=plan.final_learning_rate_share,
    )


def _due(step: int, every: int | None) -> bool:
    return every is not None and step % every == 0


def _stop_reason(
    plan: Plan, state: TrainState, signals: SignalStop, time_limit: TimeLimit
) -> str | None:
    if state.step >= plan.num_steps:
        return "completed"
    if plan.patience is not None and state.evaluations_since_best >= plan.patience:
        return "early_stopping"
    if signals.requested:
        return "signal"
    if time_limit.leaves_no_step():
        return "time_limit"
    return None


def _metrics(
    session: Session, state: TrainState, result: StepResult, *, rate: float, seconds: float
) -> dict[str, float]:
    metrics = {
        "train/loss": result.loss,
        "train/learning_rate": rate,
        "train/gradient_norm": result.gradient_norm,
        "train/tokens_per_second": result.num_tokens / max(seconds, 1e-9),
        "train/target_tokens": result.num_targets,
        "train/epoch": state.step * session.plan.batch_size / session.epoch_length,
        "train/peak_memory_gib": peak_memory_gib(session.decoder.device),
    }
    if result.loss_scale.dynamic:
        metrics["train/loss_scale"] = result.loss_scale.value
        metrics["train/overflows"] = result.loss_scale.overflows
    return metrics


@contextmanager
def _within_memory(session: Session, *, where: str) -> Iterator[None]:
    """Within it, memory that runs out is the user's to mend, not a traceback."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        raise TrainingError(
            f"a micro-batch of up to {session.plan.tokens_per_batch} tokens does not fit into the "
            f"memory of {session.decoder.device}",
            where=where,
            fix="Lower train.micro_batch_tokens (the result stays the same, and a run that has "
            "begun goes on with --resume) or train.max_length",
        ) from error

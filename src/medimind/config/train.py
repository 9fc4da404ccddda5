"""How the adapter is trained."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from medimind.config.section import Section

FREE_SETTINGS = frozenset(
    {
        "log_every",
        "checkpoint_every",
        "keep_checkpoints",
        "max_hours",
        "threads",
        "micro_batch_tokens",
        "memory",
    }
)
"""What may differ between a run and its continuation: none of it changes what is learned, though
the last three round sums otherwise. A run whose card turns out too small goes on."""


class TrainConfig(Section):
    """The training loop.

    Attributes:
        epochs: Passes over the training cases; give this or ``steps``.
        steps: Optimizer steps; give this or ``epochs``.
        batch_size: Cases per optimizer step (a "2 x 4" of other tools is 8 here).
        micro_batch_tokens: Cases of a step are packed into micro-batches of at most this many
            tokens; ``None`` lets the memory plan choose on a card, and takes ``max_length`` on a
            CPU.
        max_length: Longest case in tokens.
        max_truncated_share: Stop before training when more than this share of the rows is longer
            than ``max_length``; the rows that are longer are left out, never cut.
        drop_targetless: Leave out rows without any target token instead of stopping.
        learning_rate: Peak learning rate.
        schedule: ``linear`` and ``cosine`` fall to ``final_learning_rate_share`` of the peak.
        warmup_steps: Steps over which the learning rate rises linearly from 0.
        optimizer: ``adamw``, or ``adamw_8bit`` with its moments in 8 bits (bitsandbytes; saves 6 of
            14 bytes an adapter value).
        weight_decay: Decoupled weight decay of AdamW (Loshchilov & Hutter, 2019).
        betas: AdamW's averaging coefficients.
        epsilon: AdamW's epsilon.
        max_gradient_norm: Gradients are scaled down to this norm; ``None`` leaves them.
        seed: Seed of the adapter's initial values, dropout and order of cases.
        log_every: Steps between two rows of the metrics.
        evaluate_every: Steps between two held-out losses; ``None`` leaves them to the comparison
            before and after.
        checkpoint_every: Steps between two checkpoints; ``None`` only at the end and when stopped.
        keep_checkpoints: How many of the newest are kept, besides the best.
        keep_best: Keep the adapter of the lowest held-out loss as the final one.
        early_stopping_patience: Stop after this many held-out losses without a new best.
        max_hours: Save and end cleanly before this much wall time has passed.
        threads: CPU threads; ``None`` takes all cores.
        memory: How a step on a card trades memory for time: ``keep`` all activations,
            ``recompute_cheap`` (norms again), ``recompute_layers`` (all but the layers' inputs
            again), ``offload`` (these inputs in host memory); ``auto`` takes the fastest that fits
            (``medimind plan`` shows which).
        precision: ``dtype`` multiplies in ``model.dtype``; ``fp8`` multiplies with the frozen
            weights in 8-bit floating point (Ada, Hopper and later), adapters as before.
        deterministic: The same bits each time. ``false`` lets a card take cuDNN's attention where
            all rows of a micro-batch have one length: up to 5 % faster, its gradients are summed in
            any order; and FlashAttention-4, where it is installed, may do so too. Elsewhere it
            changes nothing.
    """

    epochs: float | None = Field(default=None, gt=0)
    steps: int | None = Field(default=None, ge=1)
    batch_size: int = Field(default=8, ge=1)
    micro_batch_tokens: int | None = Field(default=None, ge=16)
    max_length: int = Field(default=2048, ge=16)
    max_truncated_share: float = Field(default=0.01, ge=0, le=1)
    drop_targetless: bool = False
    learning_rate: float = Field(default=2e-4, gt=0)
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    final_learning_rate_share: float = Field(default=0.0, ge=0, le=1)
    warmup_steps: int = Field(default=5, ge=0)
    optimizer: Literal["adamw", "adamw_8bit"] = "adamw"
    weight_decay: float = Field(default=0.01, ge=0)
    betas: tuple[float, float] = (0.9, 0.999)
    epsilon: float = Field(default=1e-8, gt=0)
    max_gradient_norm: float | None = Field(default=1.0, gt=0)
    seed: int = Field(default=3407, ge=0)
    log_every: int = Field(default=1, ge=1)
    evaluate_every: int | None = Field(default=None, ge=1)
    checkpoint_every: int | None = Field(default=20, ge=1)
    keep_checkpoints: int = Field(default=2, ge=1)
    keep_best: bool = False
    early_stopping_patience: int | None = Field(default=None, ge=1)
    max_hours: float | None = Field(default=None, gt=0)
    threads: int | None = Field(default=None, ge=1)
    memory: Literal["auto", "keep", "recompute_cheap", "recompute_layers", "offload"] = "auto"
    precision: Literal["dtype", "fp8"] = "dtype"
    deterministic: bool = True

    @model_validator(mode="after")
    def _one_length(self) -> TrainConfig:
        if (self.epochs is None) == (self.steps is None):
            raise ValueError("give exactly one of epochs and steps")
        if self.early_stopping_patience and not self.evaluate_every:
            raise ValueError("early_stopping_patience needs evaluate_every")
        return self

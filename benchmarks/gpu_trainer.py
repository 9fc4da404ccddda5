"""A model in memory and a training run's parts, as ``gpu_settings.py`` measures them.

Loss, AdamW and clipping are the training loop's own functions; weights and rows are random.
"""

from __future__ import annotations

import gc
from dataclasses import dataclass

import numpy as np
import torch

from medimind.models.architecture import PROJECTIONS, Architecture
from medimind.models.decoder import Decoder
from medimind.models.fused import StepPlan
from medimind.models.fused.loss import FusedLoss
from medimind.models.lora import attach_lora, lora_parameters
from medimind.packing.batch import PackedBatch
from medimind.training.loss_scale import LossScale, initial_loss_scale
from medimind.training.optimizer import OptimizerName, make_optimizer
from medimind.training.step import take_step

GIB = 1 << 30
HAS_CARD = torch.cuda.is_available()
DEVICE = "cuda" if HAS_CARD else "cpu"


@dataclass(frozen=True, slots=True)
class Setting:
    """One row: how many tokens by which plan, with which adapter, dtype, optimizer and head."""

    tokens: int
    plan: StepPlan
    rank: int = 16
    targets: tuple[str, ...] = PROJECTIONS
    float16: bool = False
    optimizer: OptimizerName = "adamw"
    int8_tables: bool = False


@dataclass(frozen=True, slots=True)
class Peaks:
    """Bytes of torch's allocator: now, at most, and at most taken from the card."""

    allocated: int
    most: int
    reserved: int


def peaks() -> Peaks:
    """Since they were forgotten; nothing without a card."""
    if not HAS_CARD:
        return Peaks(0, 0, 0)
    return Peaks(
        torch.cuda.memory_allocated(),
        torch.cuda.max_memory_allocated(),
        torch.cuda.max_memory_reserved(),
    )


def forget_peaks() -> None:
    """Give back what is cached and count anew."""
    gc.collect()
    if HAS_CARD:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def synchronize() -> None:
    if HAS_CARD:
        torch.cuda.synchronize()


@torch.no_grad()
def make_decoder(architecture: Architecture, *, nf4: bool) -> Decoder:
    """A decoder with random weights, quantised layer by layer, in bf16."""
    torch.manual_seed(0)
    decoder = Decoder(architecture, dtype=torch.bfloat16, device=DEVICE, allocate_layers=False)
    decoder.model.norm.weight.fill_(1.0)
    for _, table in decoder.tables():
        table.table.normal_(std=0.02)
    for index in range(architecture.num_layers):
        layer = decoder.allocate_layer(index)
        for parameter in layer.parameters():
            parameter.fill_(1.0) if parameter.dim() == 1 else parameter.normal_(std=0.02)
        if nf4:
            layer.quantize_nf4()
    return decoder


def compute_in(decoder: Decoder, dtype: torch.dtype) -> None:
    """Hold what is not quantised in another dtype."""
    if decoder.dtype == dtype:
        return
    for parameter in decoder.parameters():
        if parameter.dtype == decoder.dtype and parameter.is_contiguous():
            pinned = parameter.device.type == "cpu" and parameter.is_pinned()
            parameter.data = parameter.data.to(dtype)
            parameter.data = parameter.data.pin_memory() if pinned else parameter.data
    for _, projection in decoder.projections():
        projection.dtype = dtype
    decoder.dtype = dtype


def detach_lora(decoder: Decoder) -> None:
    decoder.lora = None
    for _, projection in decoder.projections():
        projection.lora_a = projection.lora_b = None


def random_batch(lengths: list[int], vocab: int, *, seed: int) -> PackedBatch:
    """Rows of these lengths with a target at every second position."""
    generator = np.random.default_rng(seed)
    tokens = generator.integers(0, vocab, sum(lengths))
    labels = np.where(np.arange(len(tokens)) % 2, np.roll(tokens, -1), -100)
    return PackedBatch(
        token_ids_T=tokens,
        labels_T=labels,
        position_ids_T=np.concatenate([np.arange(n) for n in lengths]),
        cu_seqlens=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int32),
        max_seqlen=max(lengths),
        num_targets=int((labels != -100).sum()),
        case_ids=tuple(str(i) for i in range(len(lengths))),
    )


class Trainer:
    """A run's parts: loss by a plan, optimizer, steps."""

    def __init__(self, decoder: Decoder, setting: Setting) -> None:
        self.decoder = decoder
        self.parameters = lora_parameters(decoder)
        self.scale: LossScale = initial_loss_scale(is_float16=decoder.dtype == torch.float16)
        self.loss = FusedLoss(decoder, num_tokens=setting.tokens, plan=setting.plan)
        self.optimizer = make_optimizer(
            self.parameters,
            name=setting.optimizer,
            betas=(0.9, 0.999),
            epsilon=1e-8,
            weight_decay=0.0,
        )

    def step(self, batches: list[PackedBatch], *, number: int) -> float:
        """One optimizer step; its loss."""
        result = take_step(
            batches,
            step=number,
            seed=0,
            loss_sum=lambda batch, seed: self.loss(batch),
            parameters=list(self.parameters.values()),
            optimizer=self.optimizer,
            learning_rate=1e-4,
            max_gradient_norm=1.0,
            loss_scale=self.scale,
        )
        self.scale = result.loss_scale
        return result.loss


def start(decoder: Decoder, setting: Setting) -> None:
    """Bring the decoder into the setting's state, and forget the peak so far."""
    if setting.int8_tables:
        decoder.quantize_tables()
    compute_in(decoder, torch.float16 if setting.float16 else torch.bfloat16)
    detach_lora(decoder)
    attach_lora(decoder, rank=setting.rank, alpha=16, targets=setting.targets, seed=1)
    forget_peaks()


def train(decoder: Decoder, setting: Setting) -> dict:
    """Three steps; their losses, the peaks and what was there before."""
    start(decoder, setting)
    before, tokens = peaks().allocated, setting.tokens
    trainer, vocab = Trainer(decoder, setting), decoder.architecture.vocab_size
    uneven = [tokens // 2 - 40, tokens // 4, tokens // 8 + 3]
    losses = []
    for number, lengths in enumerate(([tokens // 2] * 2, uneven, uneven), start=1):
        losses.append(trainer.step([random_batch(lengths, vocab, seed=number)], number=number))
    with torch.no_grad():
        losses.append(float(trainer.loss(random_batch(uneven, vocab, seed=3))))
    synchronize()
    return {
        "losses": [round(loss, 4) for loss in losses],
        "loaded_gib": before / GIB,
        "measured_gib": peaks().most / GIB,
        "reserved_gib": peaks().reserved / GIB,
    }

"""Memory of training steps on a card: one group of settings, in a process of its own.

    python benchmarks/gpu_settings.py {dense,lean,others,cards,attention,long,try}

``gpu_memory.py`` starts these side by side. Each row is one line of JSON on stdout, so that what is
measured is not lost when a later row fails. ``dense`` and ``lean`` are the 8B's settings by what
they take, ``others`` other shapes; each takes three steps by the training loop's own functions
(loss, AdamW, clipping). ``cards`` holds torch's allocator to a card of each size, takes the plan
that is chosen for it and trains. ``attention`` measures each backend by itself. ``long`` trains on
one row with at most 24 GiB. ``try`` runs a tiny shape, on a CPU too.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, fields, replace
from itertools import accumulate
from pathlib import Path
from unittest import mock

import torch
from gpu_room import Room
from gpu_trainer import (
    DEVICE,
    GIB,
    HAS_CARD,
    Setting,
    Trainer,
    forget_peaks,
    make_decoder,
    peaks,
    random_batch,
    start,
    synchronize,
    train,
)

from medimind.kernels.attention.backward import attention_backward
from medimind.kernels.attention.footprint import (
    Card,
    Heads,
    backward_bytes,
    card_of,
    kept_bytes,
)
from medimind.kernels.attention.forward import Backend, Segments, attention_forward
from medimind.models.architecture import Architecture
from medimind.models.decoder import Decoder
from medimind.models.fused import StepPlan
from medimind.models.fused.memory import memory_need
from medimind.models.fused.planner import (
    CONTEXT_BYTES,
    Limits,
    available_on,
    choose_plan,
    choose_tokens,
)
from medimind.models.fused.workload import Workload
from medimind.models.shape import R1_DISTILL_LLAMA_8B
from medimind.training.optimizer import MOMENT_BYTES

QWEN_1_5B = Architecture(
    family="qwen2",
    vocab_size=151_936,
    hidden_size=1536,
    intermediate_size=8960,
    num_layers=28,
    num_heads=12,
    num_kv_heads=2,
    head_dim=128,
    rope_theta=1e6,
    tied_head=True,
    qkv_bias=True,
)
SMOLLM2 = Architecture(
    family="llama",
    vocab_size=49_152,
    hidden_size=576,
    intermediate_size=1536,
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    head_dim=64,
    tied_head=True,
)
TINY = replace(SMOLLM2, vocab_size=256, hidden_size=64, intermediate_size=128, num_layers=2)
TINY = replace(TINY, num_heads=2, num_kv_heads=1, head_dim=32, tied_head=False)
LEAN = StepPlan(keep="inputs", resident=False, head_chunk=1024)
OFFLOAD = replace(LEAN, offload=True)
HOST = replace(OFFLOAD, host_embedding=True)
SMALL = replace(HOST, mlp_chunk=2048)
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
T4 = Card((7, 5), 40)
T4_GIB = 14.56
DENSE = (
    Setting(1024, StepPlan()),
    Setting(4096, StepPlan()),
    Setting(4096, StepPlan(deterministic=False)),
    Setting(4096, StepPlan(), rank=64),
    Setting(2048, StepPlan(keep="cheap")),
    Setting(4096, StepPlan(keep="cheap"), targets=ATTENTION),
    Setting(4096, StepPlan(resident=False)),
    Setting(4096, StepPlan(resident=False, fp8=True)),
)
# In this order, as an embedding that went to the host or tables that became int8 stay so.
FEW = (
    Setting(2048, StepPlan(keep="cheap", resident=False), optimizer="adamw_8bit"),
    Setting(4096, LEAN),
    Setting(8192, LEAN, rank=8),
    Setting(8192, replace(LEAN, deterministic=False)),
    Setting(8192, replace(LEAN, mlp_chunk=2048)),
    Setting(4096, OFFLOAD),
    Setting(16_384, replace(OFFLOAD, graph=False)),
    Setting(16_384, replace(OFFLOAD, graph=False, deterministic=False)),
    Setting(2048, LEAN, float16=True),
    Setting(2048, replace(LEAN, fp8=True)),
    Setting(2048, HOST),
    Setting(4096, HOST, optimizer="adamw_8bit"),
    Setting(8192, HOST, rank=32),
    Setting(4096, SMALL),
    Setting(8192, SMALL, optimizer="adamw_8bit"),
    Setting(4096, HOST, int8_tables=True, optimizer="adamw_8bit"),
    Setting(2048, SMALL, int8_tables=True, optimizer="adamw_8bit", float16=True),
    Setting(4096, StepPlan(resident=False), int8_tables=True),
)
OTHERS = (
    (QWEN_1_5B, True, Setting(4096, StepPlan())),
    (QWEN_1_5B, True, Setting(8192, LEAN)),
    (SMOLLM2, False, Setting(8192, StepPlan())),
)
CARDS = (
    (8, Setting(2048, StepPlan())),
    (8, Setting(2048, StepPlan(), int8_tables=True, optimizer="adamw_8bit")),
    (12, Setting(4096, StepPlan())),
    (T4_GIB, Setting(2048, StepPlan(), float16=True)),
    (16, Setting(4096, StepPlan())),
    (24, Setting(4096, StepPlan())),
    (40, Setting(4096, StepPlan())),
)
BACKENDS: tuple[tuple[Backend, Heads, tuple[int, ...]], ...] = tuple(
    (backend, heads, lengths)
    for heads in (Heads(32, 8, 128, 2), Heads(12, 2, 128, 2), Heads(9, 3, 64, 2))
    for backend, lengths in (
        ("cudnn", (2048, 2048)),
        ("cudnn", (8192,)),
        ("cudnn", (32_768,)),
        ("tiled", (2000, 3000, 1000, 2192)),
        ("flash", (2000, 3000, 1000, 2192)),
        ("flash", (8192,)),
        ("efficient", (2000, 3000, 1000, 2192)),
    )
)
HERE: tuple[tuple[Backend, Heads, tuple[int, ...]], ...] = (
    ("reference", Heads(4, 2, 32, 2), (8, 9)),
)
ROOM_GIB = 1.6
"""A process takes so much beside its plan: CUDA, and what lies between its allocations."""


def workload(architecture: Architecture, setting: Setting, *, nf4: bool = True) -> Workload:
    cards = (card_of(torch.device("cuda")),) if HAS_CARD else (Card((9, 0), 132),)
    return Workload(
        architecture=architecture,
        num_tokens=setting.tokens,
        item=2,
        rank=setting.rank,
        targets=setting.targets,
        nf4=nf4,
        int8_tables=setting.int8_tables,
        moment_bytes=MOMENT_BYTES[setting.optimizer],
        cards=cards,
        rows=3,
        longest=setting.tokens // 2,
    )


def describe(setting: Setting) -> dict:
    return {
        "tokens": setting.tokens,
        "plan": setting.plan.describe(),
        "same_bits": setting.plan.deterministic,
        "rank": setting.rank,
        "targets": len(setting.targets),
        "dtype": "float16" if setting.float16 else "bfloat16",
        "optimizer": setting.optimizer,
        "head": "int8" if setting.int8_tables else "bfloat16",
    }


def compare(
    decoder: Decoder, setting: Setting, work: Workload, *, name: str, room: Room | None = None
) -> dict:
    """One row: prediction against measurement."""
    plan = setting.plan
    if HAS_CARD and decoder.embedding.device.type == "cpu":
        plan = replace(plan, host_embedding=True)
    need, row = memory_need(work, plan), {"model": name, **describe(setting)}
    row["counted_as"] = {"plan": _changed(plan), "work": _changed(work)}
    held = int(memory_need(work, LEAN).weights + ROOM_GIB * GIB)
    if room and not room.take(int(need.held + ROOM_GIB * GIB), meanwhile=held):
        return row | {"error": "no room on the card beside the other processes"}
    try:
        row |= train(decoder, setting)
    except (torch.OutOfMemoryError, RuntimeError, ValueError) as error:
        return row | {"error": f"{type(error).__name__}: {str(error)[:200]}"}
    row["predicted_gib"] = need.total / GIB
    row["predicted_reserved_gib"] = need.held / GIB
    if row["measured_gib"]:
        row["off"] = round(need.total / GIB / row["measured_gib"] - 1, 4)
    row["parts_gib"] = {key: round(value / GIB, 3) for key, value in asdict(need).items()}
    return row


def _changed(value: Workload | StepPlan) -> dict:
    """What is not as it is unless said, so that a prediction can be made again."""
    defaults = {field.name: field.default for field in fields(value)}
    found = {name: entry for name, entry in asdict(value).items() if name != "architecture"}
    return {name: entry for name, entry in found.items() if entry != defaults[name]}


def show(row: dict) -> None:
    print(json.dumps(row), flush=True)


def settings(chosen: tuple[Setting, ...], room: Room | None) -> None:
    """The 8B's."""
    decoder = make_decoder(R1_DISTILL_LLAMA_8B, nf4=True)
    for setting in chosen:
        work = workload(R1_DISTILL_LLAMA_8B, setting)
        show(compare(decoder, setting, work, name="8B", room=room))


def others(room: Room | None) -> None:
    """Other shapes."""
    for architecture, nf4, setting in OTHERS:
        name = f"{architecture.family}, width {architecture.hidden_size}"
        decoder = make_decoder(architecture, nf4=nf4)
        work = workload(architecture, setting, nf4=nf4)
        show(compare(decoder, setting, work, name=name, room=room))
        del decoder
        gc.collect()


def _as_on_turing() -> AbstractContextManager[object]:
    """Attention by the backend that cards without bf16 take."""
    return mock.patch("medimind.models.fused.step.choose_backend", return_value="efficient")


def cards(room: Room | None) -> None:
    """The plan that is chosen for a card of each size, trained with no more memory than it has."""
    decoder = make_decoder(R1_DISTILL_LLAMA_8B, nf4=True)
    total = torch.cuda.get_device_properties(0).total_memory
    int8_cards = []
    for size, setting in CARDS:
        if setting.int8_tables:  # it would stay so
            int8_cards.append((size, setting))
            continue
        show(_card(decoder, size, setting, total=total, room=room))
    for size, setting in int8_cards:
        show(_card(decoder, size, setting, total=total, room=room))


def _card(
    decoder: Decoder, size: float, setting: Setting, *, total: int, room: Room | None
) -> dict:
    # What went to the host for a smaller plan comes back, as in a run of its own.
    table = decoder.model.embed_tokens
    if table.weight is not None:
        table.weight.data = table.weight.data.to(DEVICE)
    available, longest = available_on(int(size * GIB)), setting.tokens
    limits = Limits(available)
    work = replace(workload(decoder.architecture, setting), rows=8, longest=longest)
    if size == T4_GIB:
        work = replace(work, cards=(T4,))
    tokens = choose_tokens(work, limits, longest=longest, batch_size=8)
    work = replace(work, num_tokens=tokens)
    plan = choose_plan(work, limits)
    row = {"card_gib": size, "available_gib": available / GIB}
    if plan is None:
        return row | {"error": "nothing fits"}
    forget_peaks()
    torch.cuda.set_per_process_memory_fraction((size * GIB - CONTEXT_BYTES) / total)
    # The rows that are trained are fewer than those that the plan has to bear.
    work = replace(work, rows=3, longest=tokens // 2)
    with _as_on_turing() if size == T4_GIB else nullcontext():
        setting = replace(setting, tokens=tokens, plan=plan)
        row |= compare(decoder, setting, work, name="8B", room=room)
    torch.cuda.set_per_process_memory_fraction(1.0)
    return row


def attention() -> None:
    """What each backend allocates by itself, against what is counted."""
    card = card_of(torch.device("cuda")) if HAS_CARD else Card((9, 0), 132)
    for backend, heads, lengths in BACKENDS if HAS_CARD else HERE:
        row = {"backend": backend, "heads": asdict(heads), "lengths": lengths}
        tokens, longest = sum(lengths), max(lengths)
        shape = {"num_tokens": tokens, "segments": len(lengths), "longest": longest}
        row["counted_kept_mib"] = kept_bytes(backend, heads, **shape) / (1 << 20)
        counted = backward_bytes(backend, heads, card=card, **shape)
        row["counted_backward_mib"] = counted / (1 << 20)
        try:
            row |= _attention_peaks(backend, heads, lengths)
        except (torch.OutOfMemoryError, RuntimeError) as error:
            row["error"] = f"{type(error).__name__}: {str(error)[:200]}"
        show(row)


@torch.no_grad()
def _attention_peaks(backend: Backend, heads: Heads, lengths: tuple[int, ...]) -> dict:
    device = torch.device(DEVICE)
    tokens, offsets = sum(lengths), (0, *accumulate(lengths))
    width = heads.queries + 2 * heads.keys
    qkv = torch.randn(tokens, width, heads.width, dtype=torch.bfloat16, device=device)
    q, k, v = qkv.split([heads.queries, heads.keys, heads.keys], dim=1)
    cu_seqlens = torch.tensor(offsets, dtype=torch.int32, device=device)
    equal = len(lengths) if len(set(lengths)) == 1 else None
    segments = Segments(cu_seqlens, max(lengths), equal, offsets)
    grad = torch.randn_like(q.contiguous())
    row = {}
    for _ in range(2):  # the first time libraries take what they keep
        synchronize()
        forget_peaks()
        before = peaks().allocated
        out, saved = attention_forward(q, k, v, segments, backend=backend)
        synchronize()
        between = peaks().allocated
        forget_peaks()
        grads = attention_backward(grad, q, k, v, out, saved, segments, backend=backend)
        synchronize()
        row["kept_mib"] = (between - before - out.nbytes) / (1 << 20)
        row["backward_mib"] = (peaks().most - between) / (1 << 20)
        del out, saved, grads
    return row


def long(tokens: int, steps: int) -> None:
    """Real steps over one row, in at most 24 GiB."""
    decoder = make_decoder(R1_DISTILL_LLAMA_8B, nf4=True)
    setting = Setting(tokens, StepPlan())
    work = replace(workload(decoder.architecture, setting), rows=1, longest=tokens)
    plan = choose_plan(work, Limits(24 * GIB))
    if plan is None:
        show({"tokens": tokens, "error": "nothing fits into 24 GiB"})
        return
    setting = replace(setting, plan=plan)
    start(decoder, setting)
    total = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(24 * GIB / total)
    began = time.perf_counter()
    trainer, vocab = Trainer(decoder, setting), decoder.architecture.vocab_size
    row = {"tokens": tokens, "plan": plan.describe()}
    row["predicted_gib"] = memory_need(work, plan).total / GIB
    row["seconds_to_prepare"] = round(time.perf_counter() - began, 1)
    losses, seconds = [], []
    for number in range(1, steps + 1):
        batch = random_batch([tokens], vocab, seed=number)
        began = time.perf_counter()
        losses.append(round(trainer.step([batch], number=number), 4))
        synchronize()
        seconds.append(round(time.perf_counter() - began, 2))
        row |= {
            "losses": losses,
            "seconds": seconds,
            "tokens_per_second": round(tokens / min(seconds)),
            "measured_gib": peaks().most / GIB,
            "reserved_gib": peaks().reserved / GIB,
        }
        show(row)


def try_out(room: Room | None) -> None:
    """All but the card: a tiny shape through the same functions."""
    decoder = make_decoder(TINY, nf4=True)
    for setting in (Setting(512, StepPlan()), Setting(512, LEAN)):
        setting = replace(setting, plan=replace(setting.plan, graph=HAS_CARD))
        show(compare(decoder, setting, workload(TINY, setting), name="tiny", room=room))
    attention()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    names = ("dense", "lean", "others", "cards", "attention", "long", "try")
    parser.add_argument("group", choices=names)
    parser.add_argument("--room", type=Path, help="the file of those that share the card")
    parser.add_argument("--room-gib", type=float, default=64)
    parser.add_argument("--long-tokens", type=int, default=102_400)
    parser.add_argument("--long-steps", type=int, default=2)
    options = parser.parse_args()
    room = Room(options.room, total=int(options.room_gib * GIB)) if options.room else None
    if room:
        room.take(8 * GIB)
    {
        "dense": lambda: settings(DENSE, room),
        "lean": lambda: settings(FEW, room),
        "others": lambda: others(room),
        "cards": lambda: cards(room),
        "attention": attention,
        "long": lambda: long(options.long_tokens, options.long_steps),
        "try": lambda: try_out(room),
    }[options.group]()


if __name__ == "__main__":
    sys.exit(main())

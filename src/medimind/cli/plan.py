"""``medimind plan``: what a training step takes on a card, and how it will be run."""

from __future__ import annotations

import re
from dataclasses import replace

import click
from rich.table import Table

from medimind.cli.arguments import read_recipe, recipe_arguments
from medimind.cli.terminal import console
from medimind.config.recipe import Recipe
from medimind.errors import TrainingError

GIB = 1 << 30
_USUAL_CARDS = (8, 12, 16, 24, 40, 80)
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*(GiB|GB|G|MiB|MB|M)?", re.IGNORECASE)


class _Bytes(click.ParamType):
    """``8GiB``, ``24GB`` (as a card's maker counts, taken as GiB), ``16``."""

    name = "size"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> int:
        match = _SIZE.fullmatch(str(value).strip())
        if match is None:
            self.fail(f"'{value}' is no size of memory, such as 8GiB", param, ctx)
        unit = (match[2] or "GiB").lower()
        return int(float(match[1]) * (1 << 20 if unit.startswith("m") else GIB))


@click.command("plan")
@recipe_arguments
@click.option(
    "--gpu-memory", type=_Bytes(), help="Of the card, such as 8GiB; default: this card's."
)
def command(recipe: str, overrides: tuple[str, ...], gpu_memory: int | None) -> None:
    """Say what a training step takes on a card, and which plan training will pick.

    Nothing is loaded: the model's shape is enough. Without a card and without --gpu-memory the
    usual sizes are shown.

    \b
    medimind plan deepseek-r1-distill-llama-8b --gpu-memory 8GiB
    medimind plan medical-o1 train.micro_batch_tokens=8192
    """
    loaded = read_recipe(recipe, overrides)
    size = gpu_memory or _this_card()
    if size is not None:
        _show_one(loaded, size, is_here=gpu_memory is None)
        return
    console.print("No CUDA card here: what the usual sizes would do.\n")
    _show_usual(loaded)


def _this_card() -> int | None:
    import torch

    return torch.cuda.get_device_properties(0).total_memory if torch.cuda.is_available() else None


def _show_one(recipe: Recipe, size: int, *, is_here: bool) -> None:
    from medimind.models.fused.memory import memory_need
    from medimind.models.fused.planner import choose_plan, does_not_fit

    work, limits = _sized(recipe, size, is_here=is_here)
    plan = choose_plan(work, limits)
    if plan is None:
        raise does_not_fit(work, limits)
    need = memory_need(work, plan)
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    for name in need.__dataclass_fields__:
        if name != "graphs":
            table.add_row(name, f"{getattr(need, name) / GIB:.2f} GiB")
    table.add_row("predicted peak", f"[bold]{need.total / GIB:.2f} GiB[/]")
    table.add_row("held by graphs beside", f"{need.graphs / GIB:.2f} GiB")
    table.add_row("can be used", f"{limits.available_bytes / GIB:.2f} of {size / GIB:.1f} GiB")
    console.print(table)
    console.print(f"\n{plan.describe()}; {work.num_tokens:,} tokens a micro-batch")


def _show_usual(recipe: Recipe) -> None:
    from medimind.models.fused.memory import memory_need
    from medimind.models.fused.planner import choose_plan, most_tokens

    table = Table(box=None, pad_edge=False)
    for title in ("card", "predicted peak", "tokens", "most"):
        table.add_column(title, justify="right", no_wrap=True)
    table.add_column("plan")
    for size in _USUAL_CARDS:
        work, limits = _sized(recipe, size * GIB, is_here=False)
        plan = choose_plan(work, limits)
        peak = f"{memory_need(work, plan).total / GIB:.2f} GiB" if plan else "-"
        text = plan.describe() if plan else f"{work.num_tokens:,} tokens do not fit"
        most = f"{most_tokens(work, limits):,}"
        table.add_row(f"{size} GiB", peak, f"{work.num_tokens:,}", most, text)
    console.print(table)
    console.print("\ntokens of a micro-batch, and the most that fit with the smallest plan")


def _work(recipe: Recipe, size: int, *, is_here: bool):  # noqa: ANN202 (its module needs torch)
    import torch

    from medimind.kernels.attention.footprint import card_of
    from medimind.models.fused.workload import Workload, cards_of_size
    from medimind.models.shape import find_architecture

    architecture = find_architecture(recipe.model.path, revision=recipe.model.revision)
    if architecture.qk_norm or recipe.lora.dropout:
        reason = "adapter dropout" if recipe.lora.dropout else "normed queries and keys"
        raise TrainingError(
            f"no plan for {reason}: training takes the plain step there, whose memory is not "
            "predicted",
            where=recipe.name,
            fix="Train a few steps (train.steps=3): the log shows the peak",
        )
    dtype = {"auto": "bfloat16"}.get(recipe.model.dtype, recipe.model.dtype)
    known = is_here and torch.cuda.is_available()
    cards = (
        (card_of(torch.device("cuda")),)
        if known
        else cards_of_size(size, float16=dtype == "float16")
    )
    return Workload(
        architecture=architecture,
        num_tokens=recipe.train.micro_batch_tokens or recipe.train.max_length,
        item=getattr(torch, dtype).itemsize,
        rank=recipe.lora.rank,
        targets=recipe.lora.targets,
        nf4=recipe.model.quantization == "nf4",
        double_quantized=recipe.model.double_quantization,
        int8_tables=recipe.model.head_quantization == "int8",
        moment_bytes=1 if recipe.train.optimizer == "adamw_8bit" else 4,
        cards=cards,
        rows=recipe.train.batch_size,
        longest=recipe.train.max_length,
    )


def _sized(recipe: Recipe, size: int, *, is_here: bool):  # noqa: ANN202 (its module needs torch)
    """What is trained and what it must keep to, on a card of this size."""
    from medimind.models.fused.planner import choose_tokens

    work, limits = _work(recipe, size, is_here=is_here), _limits(recipe, size)
    if recipe.train.micro_batch_tokens is None:
        tokens = choose_tokens(
            work, limits, longest=recipe.train.max_length, batch_size=recipe.train.batch_size
        )
        work = replace(work, num_tokens=tokens)
    return work, limits


def _limits(recipe: Recipe, size: int):  # noqa: ANN202 (its module needs torch)
    from medimind.models.fused.planner import Limits, available_on

    return Limits(
        available_on(size),
        memory=recipe.train.memory,
        fp8=recipe.train.precision == "fp8",
        deterministic=recipe.train.deterministic,
    )

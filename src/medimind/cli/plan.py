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
_PARTS = {
    "weights": "the model: layers, embedding, head",
    "copies": "weights ready to multiply with",
    "adapters": "values, gradients, a cast",
    "optimizer": "AdamW's moments",
    "activations": "kept for the backward pass, and buffers",
    "logits": "of one chunk of the targets",
    "workspace": "attention's gradients, libraries",
}
_WORTH_A_HINT = 1.05
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
    from medimind.models.fused.memory import host_need, memory_need
    from medimind.models.fused.planner import choose_plan, does_not_fit, most_tokens

    work, limits = _sized(recipe, size, is_here=is_here)
    plan = choose_plan(work, limits)
    if plan is None:
        raise does_not_fit(work, limits)
    need = memory_need(work, plan)
    console.print(_title(recipe, size, is_here=is_here) + "\n")
    table = Table(box=None, pad_edge=False, show_header=False)
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="dim")
    for name, meaning in _PARTS.items():
        table.add_row(name, f"{getattr(need, name) / GIB:.2f} GiB", meaning)
    table.add_row("predicted peak", f"[bold]{need.total / GIB:.2f} GiB[/]", "of torch's memory")
    table.add_row(
        "held by graphs beside", f"{need.graphs / GIB:.2f} GiB", "by captured CUDA graphs"
    )
    table.add_row(
        "can be used",
        f"{limits.available_bytes / GIB:.2f} of {size / GIB:.1f} GiB",
        "the rest is CUDA's, and a reserve",
    )
    console.print(table)
    graphs = "" if plan.graph else ", no CUDA graphs"
    console.print(f"\nplan: {plan.describe()}{graphs}")
    most = most_tokens(work, limits)
    console.print(f"{work.num_tokens:,} tokens a micro-batch; {most:,} would fit at most")
    if host := host_need(work, plan):
        usable = limits.host_bytes / GIB
        console.print(f"host memory: {host / GIB:.1f} GiB of {usable:.1f} that may be taken here")
    if hint := _faster(recipe, work, limits):
        console.print(hint)


def _title(recipe: Recipe, size: int, *, is_here: bool) -> str:
    """What is planned, and for which card."""
    model, held = recipe.model, recipe.model.quantization
    card = "this card" if is_here else "a card"
    which = "" if is_here else ", counted as the one of that size that needs the most"
    return (
        f"{model.path} ({held if held != 'none' else 'not quantised'}), adapter of rank "
        f"{recipe.lora.rank}, on {card} of {size / GIB:.1f} GiB{which}"
    )


def _faster(recipe: Recipe, work, limits) -> str | None:  # noqa: ANN001 (modules that need torch)
    """What the plan would choose, where a recipe's own number of tokens is slower."""
    from medimind.models.fused.planner import choose_plan, choose_tokens, relative_speed

    longest = recipe.train.max_length
    if recipe.train.micro_batch_tokens is None:
        return None
    tokens = choose_tokens(work, limits, longest=longest, batch_size=recipe.train.batch_size)
    plan, other = (
        choose_plan(replace(work, num_tokens=n), limits) for n in (work.num_tokens, tokens)
    )
    if plan is None or other is None:
        return None
    gain = relative_speed(other, num_tokens=tokens, longest=longest)
    gain /= relative_speed(plan, num_tokens=work.num_tokens, longest=longest)
    if gain < _WORTH_A_HINT:
        return None
    return (
        f"faster by about {gain - 1:.0%}, as an H100 goes: train.micro_batch_tokens={tokens} "
        f"({other.describe()})"
    )


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
        most = most_tokens(work, limits)
        if plan is None and most >= recipe.train.max_length:
            text += f"; train.micro_batch_tokens={most} does"
        table.add_row(f"{size} GiB", peak, f"{work.num_tokens:,}", f"{most:,}", text)
    console.print(table)
    console.print(
        "\ntokens of a micro-batch, and the most that fit; part by part, or "
        "what else would fit: --gpu-memory SIZE"
    )


def _work(recipe: Recipe, size: int, *, is_here: bool):  # noqa: ANN202 (its module needs torch)
    import torch

    from medimind.kernels.attention.footprint import card_of
    from medimind.models.fused.fp8_weights import why_no_fp8_here
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
    if known and recipe.train.precision == "fp8":
        reason = why_no_fp8_here(torch.device("cuda"))
        if reason is not None:
            raise TrainingError(
                f"no fp8: {reason}", where="train.precision", fix="Set train.precision=dtype"
            )
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

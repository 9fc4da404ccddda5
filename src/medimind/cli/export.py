"""``medimind export``: the result in the formats that other tools load."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

import click

from medimind.cli.arguments import output_option, refuse_options, show_path
from medimind.cli.delivered import EXIT_NOT_GOOD, show_delivered
from medimind.cli.display import TerminalDisplay
from medimind.cli.output_folder import Written, check_output, remove_earlier
from medimind.cli.terminal import console, progress_console

if TYPE_CHECKING:
    from medimind.config.recipe import Recipe
    from medimind.export.deliver import Delivered
    from medimind.export.gguf import MergeBase
    from medimind.tracking.run_folder import RunFolder

MIB = 1 << 20
TARGETS = ("adapter", "merged", "gguf", "gguf-adapter", "ollama")


@click.command("export")
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option(
    "--to",
    "target",
    type=click.Choice(TARGETS),
    default="adapter",
    show_default=True,
    help="adapter: PEFT files. merged: safetensors that transformers and vLLM load. gguf: files "
    "for llama.cpp and the phone. gguf-adapter: a GGUF LoRA. ollama: GGUF with a Modelfile.",
)
@click.option(
    "--quant",
    "quantizations",
    default="q8_0",
    show_default=True,
    help="GGUF: one or more of f32, f16, bf16, q8_0, q6_k, q5_k_m, q4_k_m, with commas between.",
)
@output_option("Folder to write; by default RUN/export-<target>.")
@click.option(
    "--base",
    type=click.Choice(["trained", "original", "both"]),
    default="trained",
    show_default=True,
    help="Merge into the dequantised weights that were trained against, or the checkpoint's own. "
    "both (GGUF): write and measure both, and say which is closer.",
)
@click.option(
    "--verify/--no-verify",
    default=True,
    help="GGUF: hold each file against the trained model, through llama.cpp.",
)
@click.option(
    "--create", metavar="NAME", help="ollama: have Ollama take the model in by this name."
)
@click.option(
    "--with-base",
    is_flag=True,
    help="gguf-adapter, ollama: write the base model in each --quant, for the adapter to be laid "
    "over, instead of the merged model.",
)
@click.option("--force", is_flag=True, help="Replace the output folder if it is there.")
def command(
    run_folder: Path,
    overrides: tuple[str, ...],
    target: str,
    quantizations: str,
    out: Path | None,
    base: str,
    verify: bool,
    create: str | None,
    with_base: bool,
    force: bool,
) -> None:
    """Write the adapter or the tuned model of RUN for other tools.

    \b
    medimind export runs/starter --to merged -o smollm2-medical
    medimind export runs/starter --to gguf --quant q8_0,q4_k_m
    medimind export runs/starter --to gguf --quant q4_k_m export.calibration_cases=60
    medimind export runs/starter --to gguf-adapter --with-base --quant q8_0
    medimind export runs/starter --to ollama --quant q4_k_m --create smollm2-medical
    """
    from medimind.export.deliver import check_can_verify
    from medimind.tracking.run_folder import open_run_folder, trained_adapter

    _refuse_idle(target, with_base=with_base)
    names = quantization_names(quantizations)
    folder, recipe = open_run_folder(run_folder, overrides=overrides)
    trained_adapter(folder)
    output = out or folder.export(target)
    is_folder = target in ("adapter", "merged")
    check_output(output, cast("Written", target) if is_folder else "gguf", force=force)
    if is_folder:
        _export_folder(folder, recipe, output, target=target, base=base)
        return
    bases: tuple[MergeBase, ...] = (
        ("trained", "original")
        if base == "both"
        else ("original" if base == "original" else "trained",)
    )
    if target == "gguf-adapter" and not with_base:
        names = []
    if verify:
        check_can_verify()
    remove_earlier(output)
    delivered = _export_gguf(
        folder,
        recipe,
        output,
        is_adapter=target == "gguf-adapter" or with_base,
        names=names,
        bases=bases,
        verify=verify,
    )
    if target == "ollama":
        _write_modelfile(recipe, output, delivered, with_base=with_base, create=create)
    if any(one.problems for one in delivered):
        click.get_current_context().exit(EXIT_NOT_GOOD)


def _refuse_idle(target: str, *, with_base: bool) -> None:
    """Refuse options that change nothing of what is written."""
    of_files = {"quantizations", "verify", "with_base"}
    idle = {
        "adapter": {*of_files, "base"},
        "merged": of_files,
        "gguf": {"with_base"},
        "gguf-adapter": set() if with_base else {"quantizations", "base"},
        "ollama": set(),
    }[target]
    hint = " without --with-base" if target == "gguf-adapter" else ""
    refuse_options(idle, f"it changes nothing of --to {target}{hint}; see --to in the help")
    if target != "ollama":
        refuse_options({"create"}, "that goes with --to ollama")


def quantization_names(text: str) -> list[str]:
    """The quantisations of ``--quant``, each once.

    Raises:
        ExportError: If there is no such quantisation.
    """
    from medimind.export.gguf import find_quantization

    names = [find_quantization(name).name for name in text.split(",") if name.strip()]
    if not names:
        raise click.UsageError("--quant names nothing")
    return list(dict.fromkeys(names))


def _export_folder(
    folder: RunFolder, recipe: Recipe, output: Path, *, target: str, base: str
) -> None:
    if target == "adapter":
        from medimind.export.adapter_copy import export_adapter

        files = export_adapter(folder.adapter, output)
    else:
        from medimind.export.merge import export_merged
        from medimind.export.trained import open_trained

        if base == "both":
            raise click.UsageError("--base both is for GGUF files")
        model = open_trained(folder, recipe)
        kind = "original" if base == "original" else "trained"
        files = export_merged(model, output, base=kind, prompt=recipe.prompt)
    for file in files:
        console.print(f"{show_path(file)}  {file.stat().st_size / MIB:,.1f} MiB", markup=False)


def _export_gguf(
    folder: RunFolder,
    recipe: Recipe,
    output: Path,
    *,
    is_adapter: bool,
    names: Sequence[str],
    bases: Sequence[MergeBase],
    verify: bool,
) -> list[Delivered]:
    from medimind.export.deliver import better_base
    from medimind.export.run_files import export_gguf_files

    delivered = export_gguf_files(
        folder,
        recipe,
        output,
        quantizations=names,
        is_adapter=is_adapter,
        bases=bases,
        verify=verify,
        watch=TerminalDisplay(progress_console),
    )
    show_delivered(delivered, better=better_base(delivered))
    return delivered


def _write_modelfile(
    recipe: Recipe,
    output: Path,
    delivered: Sequence[Delivered],
    *,
    with_base: bool,
    create: str | None,
) -> None:
    from medimind.export import ollama
    from medimind.prompts.templates import get_template
    from medimind.prompts.tokenizer import load_tokenizer

    decoding = recipe.evaluation.decoding
    model = delivered[1 if with_base else 0].file.path
    text = ollama.modelfile(
        model=model.name,
        adapter=delivered[0].file.path.name if with_base else None,
        template=get_template(recipe.prompt),
        tokenizer=load_tokenizer(model),
        temperature=decoding.temperature,
        top_p=decoding.top_p,
        max_new_tokens=decoding.max_new_tokens,
        context=max(4096, recipe.train.max_length),
    )
    path = ollama.write_modelfile(output, text)
    console.print(show_path(path), markup=False)
    if create and not any(one.problems for one in delivered):
        ollama.create(create, output)
        console.print(f"ollama run {create}", markup=False)

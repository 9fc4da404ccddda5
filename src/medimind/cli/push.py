"""``medimind push``: the result to the Hugging Face hub, with a model card."""

from __future__ import annotations

from pathlib import Path

import click

from medimind.cli.arguments import output_option, show_path
from medimind.cli.delivered import show_delivered
from medimind.cli.display import TerminalDisplay
from medimind.cli.export import quantization_names
from medimind.cli.output_folder import check_output
from medimind.cli.terminal import console, progress_console

MIB = 1 << 20


@click.command("push")
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("repo", metavar="OWNER/NAME")
@click.argument("overrides", metavar="[KEY=VALUE]...", nargs=-1)
@click.option(
    "--parts",
    default="merged,adapter,gguf",
    show_default=True,
    help="What the repository holds, with commas between.",
)
@click.option("--quant", default="q8_0,q4_k_m", show_default=True, help="GGUF: see export.")
@click.option("--dry-run", is_flag=True, help="Write the folder; send nothing.")
@click.option("--public", is_flag=True, help="Let everybody see it; by default it is private.")
@output_option("Folder to write; by default RUN/push.")
@click.option("--verify/--no-verify", default=True, help="Hold GGUF files against the model.")
@click.option("--force", is_flag=True, help="Replace the output folder if it is there.")
def command(
    run_folder: Path,
    repo: str,
    overrides: tuple[str, ...],
    parts: str,
    quant: str,
    dry_run: bool,
    public: bool,
    out: Path | None,
    verify: bool,
    force: bool,
) -> None:
    """Send the tuned model of RUN to the hub, with a model card. Private unless --public.

    \b
    medimind push runs/starter me/smollm2-medical --dry-run
    medimind push runs/mine me/r1-medical export.data_license="CC BY 4.0" --public
    """
    from medimind.cases.prepare import prepare_cases
    from medimind.export import push
    from medimind.export.deliver import check_can_verify
    from medimind.export.trained import open_trained
    from medimind.tracking.run_folder import open_run_folder, trained_adapter

    push.check_repo(repo)
    chosen = [part.strip() for part in parts.split(",") if part.strip()]
    if not chosen or not set(chosen) <= set(push.PARTS):
        raise click.UsageError(f"--parts takes some of: {', '.join(push.PARTS)}")
    names = quantization_names(quant)
    folder, recipe = open_run_folder(run_folder, overrides=overrides)
    trained_adapter(folder)
    output = out or run_folder / "push"
    check_output(output, "push", force=force)
    if verify and "gguf" in chosen:
        check_can_verify()
    model = open_trained(folder, recipe)
    cases = prepare_cases(recipe.data, base_folder=Path.cwd(), seed=recipe.train.seed)
    delivered = push.write_repository(
        folder,
        recipe,
        model,
        cases,
        output,
        repo=repo,
        parts=chosen,
        quantizations=names,
        verify=verify,
        watch=TerminalDisplay(progress_console),
    )
    show_delivered(delivered, better=None)
    for file in sorted(path for path in output.rglob("*") if path.is_file()):
        console.print(f"{show_path(file)}  {file.stat().st_size / MIB:,.1f} MiB", markup=False)
    if dry_run:
        console.print("Nothing was sent (--dry-run).", markup=False)
        return
    console.print(push.upload(output, repo, public=public), markup=False)

"""``medimind evaluate``: before and after of a trained run, and benchmarks."""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medimind.cli.arguments import (
    TEMPLATES,
    decoding_options,
    output_option,
    refuse_options,
    show_path,
)
from medimind.cli.display import TerminalDisplay
from medimind.cli.judge import judge_option, print_judged, read_judges
from medimind.cli.terminal import console, progress_console

if TYPE_CHECKING:
    from medimind.config.judge import JudgeConfig
    from medimind.evaluation.answering.open_arms import OpenedArms

_OF_MODELS = ("adapter", "template", "quantization")
_OF_ENDPOINTS = ("tuned_name", "concurrency", "timeout", "api_key_env")


@click.command("evaluate")
@click.argument("target", metavar="[RUN|MODEL]", required=False)
@click.argument("overrides", nargs=-1, metavar="[KEY=VALUE]...")
@click.option("--benchmark", "names", help="Benchmarks or files of questions, with commas between.")
@click.option("--benchmark-path", "path", help="Folder of the benchmarks' published files.")
@click.option("--limit", type=click.IntRange(1), help="Questions of each benchmark.")
@click.option("--samples", type=click.IntRange(1), help="Outputs per question.")
@decoding_options()
@click.option(
    "--likelihood",
    type=click.Choice(["chat", "harness", "none"]),
    help="Also the likeliest option: after our prompt, lm-evaluation-harness's, or not at all.",
)
@click.option("--generate/--no-generate", default=None, help="Whether answers are written out.")
@click.option("--native", is_flag=True, help="Also ask with the base model's own chat template.")
@click.option("--endpoint", metavar="URL", help="OpenAI-compatible API that answers as MODEL.")
@click.option("--tuned-name", help="With --endpoint: the tuned model's name there.")
@click.option("--adapter", type=click.Path(path_type=Path), help="With a MODEL: a PEFT folder.")
@click.option("--template", type=click.Choice(TEMPLATES), help="With a MODEL: prompt template.")
@click.option(
    "--quantization",
    type=click.Choice(["nf4", "none"]),
    default="none",
    show_default=True,
    help="With a MODEL: how its weights are held.",
)
@click.option("--batch-size", type=click.IntRange(1), help="Outputs generated at once.")
@click.option(
    "--concurrency",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="With --endpoint: requests at once.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(1),
    default=600.0,
    show_default=True,
    help="With --endpoint: seconds that an answer may take.",
)
@click.option(
    "--api-key-env",
    default="OPENAI_API_KEY",
    show_default=True,
    metavar="NAME",
    help="With --endpoint: environment variable that holds its key.",
)
@judge_option("Judges the open answers, which are sent there; twice at most.")
@output_option("Folder of the results; by default RUN/evaluation/benchmarks.")
@click.option("--rescore", type=click.Path(path_type=Path), help="Score this file of results anew.")
def command(target: str | None, overrides: tuple[str, ...], **options: Any) -> None:
    """Compare the model of RUN with its adapter off and on, and write the report.

    RUN is a folder that `medimind run` or `medimind train` wrote. Items that were answered before
    under the same settings are not asked again. With benchmarks, RUN or any MODEL is asked their
    questions; at an endpoint MODEL is its name there.

    \b
    medimind evaluate runs/starter evaluation.decoding.max_new_tokens=512
    medimind evaluate runs/starter --benchmark medqa,pubmedqa --limit 200 --samples 3
    medimind evaluate llama3.1 --benchmark medqa --endpoint http://localhost:11434/v1
    medimind evaluate runs/starter --judge llama3.1@http://localhost:11434/v1
    medimind evaluate --rescore runs/starter/evaluation/benchmarks/medqa/tuned.jsonl
    """
    judges = read_judges(options["judges"])
    if options["rescore"] is not None:
        _refuse_others(
            {"rescore", "out"}, "--rescore reads outputs again and asks no judge and no model"
        )
        _rescore(options["rescore"], options["out"])
        return
    if target is None:
        raise click.UsageError("name a RUN or a MODEL")
    if options["names"] is None:
        _refuse_others(
            {"judges"},
            "that goes with --benchmark; the comparison of a RUN takes KEY=VALUE, such as "
            "evaluation.decoding.max_new_tokens=512",
        )
        _before_after(Path(target), (*overrides, *_as_override(judges)))
        return
    _benchmarks(target, overrides, options, judges)


def _as_override(judges: Sequence[JudgeConfig]) -> tuple[str, ...]:
    """Judges of the command line take the place of the recipe's."""
    if not judges:
        return ()
    return (f"evaluation.judges={json.dumps([judge.model_dump() for judge in judges])}",)


def _before_after(run_folder: Path, overrides: tuple[str, ...]) -> None:
    from medimind.cli.outcome import print_evaluation, print_evidence
    from medimind.pipeline import evaluate_run

    display = TerminalDisplay(progress_console)
    result = evaluate_run(run_folder, overrides=overrides, display=display)
    print_evaluation(result.evaluation)
    print_evidence(result.evidence)
    console.print(f"\nreport   {show_path(result.folder.report)}")


def _benchmarks(
    target: str,
    overrides: tuple[str, ...],
    options: dict[str, Any],
    judges: Sequence[JudgeConfig],
) -> None:
    from medimind.cli.benchmark_report import write_benchmark_report
    from medimind.cli.benchmark_table import print_benchmarks
    from medimind.evaluation.answering.plan import evaluate_benchmarks
    from medimind.evaluation.gather import result_sets
    from medimind.evaluation.judge.open import judge_records
    from medimind.evaluation.results import JUDGES
    from medimind.tracking.run_folder import is_run

    opened = _open(target, overrides, options)
    judges = judges or opened.config.judges
    config, decoding = opened.config.benchmarks, opened.config.decoding
    given: dict[str, Any] = {"names": tuple(filter(None, options["names"].split(",")))}
    for key in ("path", "limit", "samples", "max_new_tokens", "thinking_budget"):
        given[key] = options[key]
    for key in ("temperature", "top_p", "likelihood", "generate"):
        given[key] = options[key]
    given = {key: value for key, value in given.items() if value is not None}
    config = type(config).model_validate({**config.model_dump(), **given})
    if options["seed"] is not None:
        decoding = decoding.model_copy(update={"seed": options["seed"]})
    folder = options["out"] or opened.folder
    display = TerminalDisplay(progress_console)
    try:
        results = evaluate_benchmarks(
            opened.arms, config=config, decoding=decoding, folder=folder, progress=display.progress
        )
    finally:
        opened.arms[0].engine.close()
    print_benchmarks(results)
    sets = result_sets(results)
    judged = judge_records(
        [record for one in sets for record in one.records],
        judges=judges,
        folder=folder / JUDGES,
        titles={one.name: one.shown for one in sets},
        progress=display.progress,
    )
    print_judged(judged, asked=bool(judges))
    console.print(f"\nresults  {show_path(folder)}")
    if len(opened.arms) > 1:
        run = target if is_run(target) else None
        report = write_benchmark_report(folder, sets, judged, run=run, seed=decoding.seed)
        console.print(f"report   {show_path(report)}")


def _open(target: str, overrides: tuple[str, ...], options: dict[str, Any]) -> OpenedArms:
    from medimind.evaluation.answering.open_arms import open_endpoint, open_own
    from medimind.tracking.run_folder import is_run

    endpoint = options["endpoint"]
    if overrides and (endpoint is not None or not is_run(target)):
        raise click.UsageError("KEY=VALUE settings belong to a run")
    if endpoint is None:
        refuse_options(_OF_ENDPOINTS, "that goes with --endpoint")
        if is_run(target):
            refuse_options(_OF_MODELS, "a run brings its own adapter, template and quantization")
        return open_own(
            target,
            overrides=overrides,
            adapter=options["adapter"],
            template=options["template"],
            quantization=options["quantization"],
            batch_size=options["batch_size"],
            native=options["native"],
        )
    refuse_options(
        {*_OF_MODELS, "native", "batch_size"}, "that is for our own decoder, not an endpoint"
    )
    if not endpoint.startswith(("http://", "https://")):
        raise click.UsageError("--endpoint is an address, such as http://localhost:11434/v1")
    return open_endpoint(
        endpoint,
        model=target,
        tuned=options["tuned_name"],
        api_key=os.environ.get(options["api_key_env"]),
        concurrency=options["concurrency"],
        timeout=options["timeout"],
    )


def _refuse_others(taken: set[str], reason: str) -> None:
    """Refuse all options but these."""
    parameters = click.get_current_context().command.params
    options = {one.name or "" for one in parameters if isinstance(one, click.Option)}
    refuse_options(options - taken, reason)


def _rescore(path: Path, out: Path | None) -> None:
    from medimind.cli.benchmark_table import print_rescored
    from medimind.evaluation.answering.rescore import rescore_file

    print_rescored(rescore_file(path, out=out))
    if out is not None:
        console.print(f"\nwritten  {show_path(out)}")

"""``medimind serve``: the model for phones and OpenAI clients, closed by default."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from medimind.cli.arguments import refuse_options
from medimind.cli.terminal import console
from medimind.errors import ConfigError, MediMindError, MissingExtraError

if TYPE_CHECKING:
    from medimind.serving.start import Started

_FILE = click.Path(exists=True, dir_okay=False, path_type=Path)


@click.command("serve")
@click.argument("model", required=False)
@click.option("--adapter", type=_FILE, help="GGUF LoRA, see export; answers to the name 'tuned'.")
@click.option(
    "--run",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Run folder whose report is shown; by default the one that MODEL lies in.",
)
@click.option(
    "--forecaster",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Folder of 'forecast fit': forecasts for patients' files.",
)
@click.option(
    "--forecast-input", type=_FILE, help="With --forecaster: YAML that says what columns mean."
)
@click.option("--endpoint", help="OpenAI-compatible API that answers; MODEL is the name there.")
@click.option("--tuned-name", help="With --endpoint: the tuned model's name there.")
@click.option(
    "--api-key-env",
    default="MEDIMIND_ENDPOINT_KEY",
    show_default=True,
    help="With --endpoint: environment variable that holds its key.",
)
@click.option("--host", default="127.0.0.1", show_default=True, help="0.0.0.0 for the network.")
@click.option(
    "--port",
    type=click.IntRange(0, 65535),
    default=8443,
    show_default=True,
    help="0 takes a free one.",
)
@click.option("--tls", type=click.Choice(["off", "auto"]), help="auto: a certificate of our own.")
@click.option("--tls-cert", type=_FILE, help="A certificate of yours, PEM.")
@click.option("--tls-key", type=_FILE, help="Its key, PEM.")
@click.option("--token-file", type=click.Path(path_type=Path), help="Lines 'NAME TOKEN', kept.")
@click.option("--allow-host", multiple=True, help="A further name of this server.")
@click.option("--allow-origin", multiple=True, help="A page that may ask, https://name.")
@click.option(
    "--context", type=click.IntRange(64), default=4096, show_default=True, help="Tokens of a chat."
)
@click.option(
    "--parallel",
    type=click.IntRange(1, 1024),
    default=4,
    show_default=True,
    help="Answers at a time.",
)
@click.option(
    "--queue",
    type=click.IntRange(0, 100_000),
    default=32,
    show_default=True,
    help="Requests that wait; more get 429.",
)
@click.option("--threads", type=click.IntRange(1), help="By default all cores.")
@click.option("--no-device-files", is_flag=True, help="Phones may not fetch the model.")
@click.option("--audit", type=click.Path(path_type=Path), help="Log of who asked when, in hashes.")
@click.option("--check-audit", type=_FILE, help="Check such a log, and do nothing else.")
def command(**options: Any) -> None:
    """Serve a GGUF file to phones and OpenAI clients.

    Binds the loopback and wants a token, which is made now and shown once with a code for the
    phone. Nothing is sent anywhere else, and no prompt is logged.

    \b
    medimind serve runs/starter --host 0.0.0.0 --tls auto
    medimind serve runs/starter/export-gguf/starter-q8_0.gguf
    medimind serve smollm2-135m-instruct --adapter starter-adapter.gguf --host 0.0.0.0 --tls auto
    medimind serve starter-q8_0.gguf --forecaster models/cohort
    medimind serve my-8b --endpoint http://gpu-box:8000/v1 --tuned-name my-8b-lora
    """
    try:
        from medimind.serving.audit import check_log
        from medimind.serving.start import ServeOptions, run_server
    except ImportError as error:
        raise MissingExtraError(error.name or "fastapi", extra="serve") from error
    log = options.pop("check_audit")
    if log is not None:
        last, count = check_log(log)
        console.print(f"{count} lines, each follows from the one before; the last is {last}")
        return
    if options["model"] is None:
        raise click.UsageError("name a MODEL: a run, a GGUF file, or a built-in name")
    if options["forecast_input"] is not None and options["forecaster"] is None:
        raise click.UsageError("--forecast-input belongs to --forecaster FOLDER")
    if options["endpoint"] is None:
        refuse_options({"tuned_name", "api_key_env"}, "that goes with --endpoint")
    else:
        refuse_options(
            {"threads", "no_device_files"}, "the endpoint has the model, not this server"
        )
    key = os.environ.get(options.pop("api_key_env"))
    options["tls"] = _tls(options)
    try:
        run_server(ServeOptions(api_key=key, **options), on_ready=_show)
    except MediMindError:
        raise
    except KeyboardInterrupt:
        console.print("stopped")


def _tls(options: dict[str, Any]) -> str:
    """``off``, ``auto`` or ``files``; plain http leaves this machine only if it is asked for."""
    from medimind.serving.addresses import LOOPBACK

    given = options["tls_cert"], options["tls_key"]
    if any(given) and (not all(given) or options["tls"] is not None):
        raise ConfigError(
            "--tls-cert and --tls-key belong together, without --tls",
            where="medimind serve",
            fix="Give both, or --tls auto",
        )
    if all(given):
        return "files"
    if options["tls"] is None and options["host"] not in LOOPBACK:
        raise ConfigError(
            "the token and patients' texts would cross the network in the clear",
            where=f"--host {options['host']}",
            fix="Add --tls auto, or --tls-cert and --tls-key; --tls off if a proxy encrypts",
        )
    return options["tls"] or "off"


def _show(started: Started) -> None:
    """The address with its token, once, and as a code for the phone's camera."""
    import segno

    console.print(f"{started.title}: {', '.join(started.variants)}", markup=False)
    for name, link in started.links:
        console.print(f"\n{name}:", markup=False)
        console.print(f"  {link}", markup=False, soft_wrap=True, style="bold")
    if started.is_for_phones:
        segno.make(started.links[0][1], micro=False).terminal(compact=True, border=2)
    for note in started.notes:
        console.print(f"note: {note}", markup=False)
    console.print(f"\n{started.notice} Ctrl-C stops.", markup=False)

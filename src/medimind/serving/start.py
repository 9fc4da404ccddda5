"""From what the user asked for to a running server."""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import click

from medimind.engines.engine import NOTICE, Variant
from medimind.engines.gguf_chat import open_chat
from medimind.engines.run_model import find_gguf
from medimind.errors import ConfigError
from medimind.prompts.chat_template import chat_template_source
from medimind.serving.about import About, ModelFacts, adapter_facts, read_facts
from medimind.serving.access import give_access, make_token, read_tokens
from medimind.serving.addresses import LOOPBACK, bind, own_hosts
from medimind.serving.admission import Admission
from medimind.serving.app import build_app
from medimind.serving.app_files import STATIC
from medimind.serving.audit import AuditLog
from medimind.serving.backend import Backend
from medimind.serving.certificate import TlsFiles, fingerprint, own_certificate
from medimind.serving.device_files import DeviceFiles
from medimind.serving.endpoint_backend import EndpointBackend
from medimind.serving.forecast_process import ForecastProcess
from medimind.serving.guard import Places
from medimind.serving.limits import Limits
from medimind.serving.llama_backend import LlamaBackend
from medimind.serving.metrics import Metrics
from medimind.serving.report import find_report
from medimind.serving.run import serve
from medimind.serving.serving import Serving

_MOST_NAMES = 6


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """What the command line takes; see ``medimind serve --help``."""

    model: str
    adapter: Path | None = None
    run: Path | None = None
    endpoint: str | None = None
    tuned_name: str | None = None
    api_key: str | None = None
    host: str = "127.0.0.1"
    port: int = 8443
    tls: Literal["off", "auto", "files"] = "off"
    tls_cert: Path | None = None
    tls_key: Path | None = None
    token_file: Path | None = None
    allow_host: tuple[str, ...] = ()
    allow_origin: tuple[str, ...] = ()
    context: int = 4096
    parallel: int = 4
    queue: int = 32
    threads: int | None = None
    no_device_files: bool = False
    audit: Path | None = None
    forecaster: Path | None = None
    forecast_input: Path | None = None


@dataclass(frozen=True, slots=True)
class Started:
    """What a person has to be told when the server is up.

    Attributes:
        title: The model.
        variants: Names that it answers to.
        links: Whose, and the address with the token; the first is for the phone.
        is_for_phones: Whether another machine can reach the first link.
        notes: What else to know.
        notice: What the answers are for.
    """

    title: str
    variants: tuple[Variant, ...]
    links: tuple[tuple[str, str], ...]
    is_for_phones: bool
    notes: tuple[str, ...]
    notice: str = NOTICE


def run_server(options: ServeOptions, *, on_ready: Callable[[Started], None]) -> None:
    """Serve until SIGINT or SIGTERM.

    Raises:
        MediMindError: If something that was asked for cannot be.
    """
    listener = bind(options.host, options.port)
    try:
        _run(options, listener, on_ready=on_ready)
    finally:
        listener.close()


def _run(
    options: ServeOptions, listener: socket.socket, *, on_ready: Callable[[Started], None]
) -> None:
    port = listener.getsockname()[1]
    hosts = own_hosts(options.host, more=options.allow_host)
    tls = _tls_files(options, hosts=hosts)
    tokens = (
        {make_token(): "owner"} if options.token_file is None else read_tokens(options.token_file)
    )
    serving = make_serving(options)
    app = build_app(
        serving,
        access=give_access(tokens),
        places=Places(frozenset(hosts), options.allow_origin),
        authority=None if tls is None else tls.authority,
    )
    scheme = "http" if tls is None else "https"
    started = Started(
        title=serving.about.model.name,
        variants=serving.backend.variants,
        links=_links(tokens, address=f"{scheme}://{_in_url(hosts[0])}:{port}"),
        is_for_phones=options.host not in LOOPBACK,
        notes=_notes(tls, hosts, address=f"{scheme}://{_in_url(hosts[0])}:{port}"),
    )
    asyncio.run(serve(app, serving, listener=listener, tls=tls, on_ready=lambda: on_ready(started)))


def make_serving(options: ServeOptions) -> Serving:
    """The parts of a server, its engine not yet started.

    Raises:
        MediMindError: If model, adapter or report cannot be used.
    """
    limits = Limits(parallel=options.parallel, queue=options.queue, max_tokens=options.context)
    backend, about, model = (
        _local(options) if options.endpoint is None else _remote(options, options.endpoint)
    )
    if options.run is not None and not (options.run / "report.html").is_file():
        raise ConfigError(
            "the run has no report yet",
            where=str(options.run),
            fix=f"Write it with: medimind evaluate {options.run}",
        )
    admission = Admission(limits)
    metrics = Metrics(admission=admission, backend=backend)
    forecaster = None
    if options.forecaster is not None:
        forecaster = ForecastProcess(
            options.forecaster, mapping=options.forecast_input, limits=limits
        )
        metrics.watch_forecaster(forecaster)
    return Serving(
        backend=backend,
        limits=limits,
        admission=admission,
        metrics=metrics,
        about=about,
        report=find_report(options.run, beside=model),
        audit=None if options.audit is None else AuditLog(options.audit),
        forecaster=forecaster,
    )


def _local(options: ServeOptions) -> tuple[Backend, About, Path | None]:
    model, own_adapter = find_gguf(options.model)
    adapter = options.adapter or own_adapter
    chat = open_chat(model, adapter=adapter)
    backend = LlamaBackend(
        model,
        chat=chat,
        adapter=adapter,
        context=options.context,
        parallel=options.parallel,
        threads=options.threads or _num_cores(),
    )
    files = DeviceFiles() if options.no_device_files else DeviceFiles(model, adapter)
    facts = read_facts(model, context=options.context)
    about = About(
        facts,
        None if adapter is None else adapter_facts(adapter),
        files,
        None if chat.template is None else chat_template_source(chat.template, chat.tokenizer),
    )
    return backend, about, model


def _remote(options: ServeOptions, url: str) -> tuple[Backend, About, None]:
    if options.adapter is not None:
        raise ConfigError(
            "an endpoint has its own adapter", where="--adapter", fix="Name it with --tuned-name"
        )
    if not url.startswith(("http://", "https://")):
        raise ConfigError(
            "this is no address", where=f"--endpoint {url}", fix="http://host:port/v1"
        )
    models: dict[Variant, str] = {"base": options.model}
    if options.tuned_name is not None:
        models["tuned"] = options.tuned_name
    backend = EndpointBackend(url, models=models, api_key=options.api_key)
    return backend, About(ModelFacts(name=options.model)), None


def _tls_files(options: ServeOptions, *, hosts: list[str]) -> TlsFiles | None:
    if options.tls == "auto":
        return own_certificate(Path(click.get_app_dir("medimind")) / "tls", hosts=hosts)
    if options.tls_cert is not None and options.tls_key is not None:
        return TlsFiles(options.tls_cert, options.tls_key)
    return None


def _links(tokens: Mapping[str, str], *, address: str) -> tuple[tuple[str, str], ...]:
    return tuple((name, f"{address}/#token={token}") for token, name in tokens.items())


def _notes(tls: TlsFiles | None, hosts: list[str], *, address: str) -> tuple[str, ...]:
    notes = []
    others = [host for host in hosts[1:] if host not in LOOPBACK]
    if others:
        notes.append(f"this machine is also called {', '.join(others[:_MOST_NAMES])}")
    if tls is not None and tls.authority is not None:
        notes.append(
            f"the phone trusts this server after it has installed {address}/ca.crt "
            f"(SHA-256 {fingerprint(tls.authority)})"
        )
    if not (STATIC / "index.html").is_file():
        notes.append(
            "the app is not in this installation, the API is; wheels hold it, and in a checkout "
            "python web/hatch_build.py builds it"
        )
    return tuple(notes)


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host


def _num_cores() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1

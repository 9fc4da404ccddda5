"""Audit log, certificate, remote endpoint, and the command line's refusals."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import subprocess
import sys
from types import SimpleNamespace

import httpx
import pytest
from click.testing import CliRunner
from cryptography import x509
from serving_stub import CHAT, ask, make_app, make_serving

from medimind.cli.main import cli, main
from medimind.cli.terminal import console
from medimind.errors import ConfigError, DataError
from medimind.prompts.live import Said
from medimind.serving.addresses import bind, own_hosts
from medimind.serving.audit import AuditLog, check_log, hash_chat, hash_text
from medimind.serving.backend import Ask, Ended
from medimind.serving.certificate import own_certificate
from medimind.serving.endpoint_backend import EndpointBackend
from medimind.serving.failures import ServingError

ASK = Ask((("user", "hi"),), "tuned", 5, 0.5, 0.9, 3, ("X",))


def test_the_audit_log_holds_hashes_and_no_text(tmp_path):
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    app = make_app(make_serving(audit=log))
    for stream in (True, False):
        ask(app, "POST", "/v1/chat/completions", json={**CHAT, "stream": stream})
    log.close()
    text = path.read_text()
    assert "fever" not in text
    assert "Warm" not in text
    lines = [json.loads(line) for line in text.splitlines()]
    assert [line["who"] for line in lines] == ["owner", "owner"]
    assert lines[0]["chat_sha256"] == hash_chat([("user", "What is fever?")])
    assert lines[0]["answer_sha256"] == hash_text("Warm.")
    assert lines[1]["outcome"] == "stop"
    assert check_log(path) == (lines[1]["hash"], 2)
    assert path.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (lambda lines: [*lines[:1], lines[1].replace("anna", "ben"), *lines[2:]], ":2.*changed"),
        (lambda lines: [lines[0], *lines[2:]], ":2.*taken out"),
        (lambda lines: [lines[1], lines[0], *lines[2:]], ":1.*changed or taken out"),
        (lambda lines: [*lines[:3], lines[3][:20]], ":4.*damaged"),
    ],
)
def test_a_changed_audit_log_is_found_and_not_continued(tmp_path, change, told):
    path = tmp_path / "audit.jsonl"
    log = AuditLog(path)
    for number in range(4):
        log.record(who="anna", answer=number)
    log.close()
    again = AuditLog(path)
    again.record(who="anna", answer=4)
    again.close()
    assert check_log(path)[1] == 5
    path.write_text("\n".join(change(path.read_text().splitlines()[:4])))
    with pytest.raises(DataError, match=told):
        AuditLog(path)


def test_a_certificate_is_made_once_and_fits_its_hosts(tmp_path):
    hosts = ["192.168.1.7", "ward.local", "127.0.0.1", "localhost"]
    files = own_certificate(tmp_path / "tls", hosts=hosts)
    first = files.certificate.read_bytes()
    assert own_certificate(tmp_path / "tls", hosts=hosts).certificate.read_bytes() == first
    leaf, authority = x509.load_pem_x509_certificates(first)
    leaf.verify_directly_issued_by(authority)
    names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["ward.local", "localhost"]
    limits = authority.extensions.get_extension_for_class(x509.NameConstraints)
    assert limits.critical
    assert x509.DNSName("ward.local") in (limits.value.permitted_subtrees or [])
    assert files.key.stat().st_mode & 0o077 == 0
    moved = own_certificate(tmp_path / "tls", hosts=["192.168.1.8", *hosts])
    assert x509.load_pem_x509_certificates(moved.certificate.read_bytes())[1] == authority


def test_clients_that_trust_the_authority_trust_the_server_by_each_of_its_names(tmp_path):
    first, second = (
        ["192.168.1.7", "ward.local", "::1"],
        ["198.18.0.5", "2a00::1", "93.184.216.34"],
    )
    own_certificate(tmp_path, hosts=first)
    files = own_certificate(tmp_path, hosts=[*first, *second])  # it has moved to other networks
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(files.certificate, files.key)
    client = ssl.create_default_context(cafile=str(files.authority))
    for host in (*first, *second):
        _shake_hands(client, server, host)
    with pytest.raises(ssl.SSLCertVerificationError, match="mismatch"):
        _shake_hands(client, server, "ward.example")


def _shake_hands(client, server, host):
    up, down = ssl.MemoryBIO(), ssl.MemoryBIO()
    ends = [
        client.wrap_bio(down, up, server_hostname=host),
        server.wrap_bio(up, down, server_side=True),
    ]
    for _ in range(4):
        for end in ends:
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
    assert ends[0].getpeercert()


def _endpoint(handler):
    models = {"base": "b", "tuned": "t"}
    transport = httpx.MockTransport(handler)
    return EndpointBackend("http://gpu/v1", models=models, api_key="k", transport=transport)


def _answer(handler):
    async def go():
        backend = _endpoint(handler)
        await backend.start()
        try:
            return [one async for one in backend.generate(ASK, await backend.prepare(ASK))]
        finally:
            await backend.close()

    return asyncio.run(go())


def test_an_endpoint_answers_with_its_thinking_apart():
    asked = []

    def handler(request):
        if request.url.path == "/v1/models":
            return httpx.Response(200, json={})
        asked.append((json.loads(request.content), request.headers["authorization"]))
        chunks = [
            {"choices": [{"delta": {"reasoning_content": "Hm."}}]},
            {"choices": [{"delta": {"content": "<think>more</think>War"}}]},
            {"choices": [{"delta": {"content": "m."}, "finish_reason": "length"}]},
            {"choices": [], "usage": {"prompt_tokens": 4, "completion_tokens": 2}},
        ]
        text = "".join(f"data: {json.dumps(one)}\n\n" for one in chunks) + "data: [DONE]\n\n"
        return httpx.Response(200, text=text)

    assert _answer(handler) == [
        Said("thinking", "Hm."),
        Said("thinking", "more"),
        Said("answer", "War"),
        Said("answer", "m."),
        Ended("length", 4, 2),
    ]
    body, key = asked[0]
    assert (body["model"], body["stop"], body["seed"], key) == ("t", ["X"], 3, "Bearer k")


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (httpx.Response(400, json={"error": {"message": "too long"}}), 400),
        (httpx.Response(429, json={"error": "busy"}), 503),
        (httpx.Response(500, text="oops"), 502),
        (httpx.Response(200, text='data: {"choices": [{"delta": {"content": "a"}}]}\n\n'), 503),
        (httpx.Response(200, text='data: {"error": {"message": "cuda"}}\n\n'), 502),
        (httpx.ConnectError("no"), 503),
    ],
)
def test_an_endpoint_that_fails_is_told(reply, status):
    def handler(request):
        if isinstance(reply, Exception):
            raise reply
        return httpx.Response(200) if request.url.path == "/v1/models" else reply

    with pytest.raises(ServingError) as told:
        _answer(handler)
    assert told.value.status == status


def test_hosts_of_a_loopback_server_are_loopback_names():
    assert set(own_hosts("127.0.0.1")) == {"127.0.0.1", "::1", "localhost"}
    assert own_hosts("0.0.0.0", more=["Ward.Example"])[0] == "ward.example"
    assert own_hosts("10.1.2.3")[0] == "10.1.2.3"


def test_a_phone_gets_the_address_of_the_network_and_not_that_of_a_container(monkeypatch):
    found = {
        "lo": ["127.0.0.1"],
        "docker0": ["172.17.0.1"],
        "eth1": ["10.0.0.9"],
        "wg0": ["10.8.0.2"],
        "eth0": ["93.184.216.34", "fe80::1", "2a00::1"],
        "wlan0": ["192.168.1.7"],
    }
    entries = {
        name: [
            SimpleNamespace(
                family=socket.AF_INET6 if ":" in address else socket.AF_INET, address=address
            )
            for address in addresses
        ]
        for name, addresses in found.items()
    }
    stats = {name: SimpleNamespace(isup=name != "eth1") for name in found}
    monkeypatch.setattr("psutil.net_if_addrs", lambda: entries)
    monkeypatch.setattr("psutil.net_if_stats", lambda: stats)
    hosts = own_hosts("0.0.0.0")
    assert hosts[:3] == ["192.168.1.7", "93.184.216.34", "2a00::1"]
    assert {"172.17.0.1", "10.8.0.2", "10.0.0.9", "127.0.0.1"} <= set(hosts[3:])


def test_a_taken_port_is_told():
    taken = bind("127.0.0.1", 0)
    with pytest.raises(ConfigError, match="cannot be taken"):
        bind("127.0.0.1", taken.getsockname()[1])
    taken.close()


def test_windows_lets_nobody_else_listen_at_our_port(monkeypatch):
    assert _is_on(bind("127.0.0.1", 0), socket.SO_REUSEADDR)
    # An option that this system has stands in for the one that Windows alone has.
    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_KEEPALIVE, raising=False)
    assert _is_on(bind("127.0.0.1", 0), socket.SO_KEEPALIVE)
    assert not _is_on(bind("127.0.0.1", 0), socket.SO_REUSEADDR)


def _is_on(listener: socket.socket, option: int) -> bool:
    with listener:
        return listener.getsockopt(socket.SOL_SOCKET, option) != 0


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["m.gguf", "--host", "0.0.0.0"], "in the clear"),
        (["nowhere.gguf", "--port", "0"], "no such file"),
        (["m", "--endpoint", "gpu:8000", "--port", "0"], "no address"),
        ([], "name a MODEL"),
    ],
)
def test_the_command_line_says_what_is_wrong(arguments, told, capfd):
    assert main(["serve", *arguments]) in (1, 2)
    assert told in " ".join(capfd.readouterr().err.split())


def test_an_audit_log_is_checked_by_the_command_line(tmp_path):
    log = AuditLog(tmp_path / "a.jsonl")
    log.record(who="anna")
    log.close()
    result = CliRunner().invoke(cli, ["serve", "--check-audit", str(tmp_path / "a.jsonl")])
    assert result.exit_code == 0


def test_the_server_needs_no_torch():
    code = (
        "import sys, medimind.serving.start;"
        "assert not {'torch', 'transformers', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_fingerprint_is_printed_as_it_is():
    with console.capture() as printed:
        console.print("SHA-256 2D:AB:23", markup=False)
    assert printed.get() == "SHA-256 2D:AB:23\n"

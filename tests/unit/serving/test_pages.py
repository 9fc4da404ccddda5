"""What the app asks for: facts, files for the device, the report, its own files."""

from __future__ import annotations

import asyncio
import hashlib

import pytest
from serving_stub import ask, client, make_app, make_serving

from medimind.serving.about import About, ModelFacts, adapter_facts, read_facts
from medimind.serving.device_files import DeviceFiles
from medimind.serving.report import find_report

CONTENT = bytes(range(256)) * 40


@pytest.fixture
def files(tmp_path):
    model, adapter = tmp_path / "a model.gguf", tmp_path / "lora.gguf"
    model.write_bytes(CONTENT)
    adapter.write_bytes(b"lora")
    (tmp_path / "secret.txt").write_text("secret")
    about = About(ModelFacts(name="m"), adapter_facts(adapter), DeviceFiles(model, adapter))
    return make_app(make_serving(about=about))


def test_about_lists_the_files_that_a_device_may_fetch(files):
    reply = ask(files, "GET", "/api/about").json()
    assert reply["device_files"][0] == {
        "name": "a model.gguf",
        "kind": "model",
        "url": "/models/a%20model.gguf",
        "bytes": len(CONTENT),
        "sha256": hashlib.sha256(CONTENT).hexdigest(),
    }
    assert reply["device_files"][1]["kind"] == "adapter"
    assert reply["adapter"] == {"name": "lora.gguf", "bytes": 4}
    assert (reply["report"], reply["variants"]) == (False, ["base", "tuned"])


def test_a_file_comes_whole_and_in_parts(files):
    url = "/models/a%20model.gguf"
    whole = ask(files, "GET", url)
    assert whole.content == CONTENT
    etag = whole.headers["etag"]
    assert etag == f'"{hashlib.sha256(CONTENT).hexdigest()}"'
    part = ask(files, "GET", url, headers={"Range": "bytes=100-", "If-Range": etag})
    assert (part.status_code, part.content) == (206, CONTENT[100:])
    assert part.headers["content-range"] == f"bytes 100-{len(CONTENT) - 1}/{len(CONTENT)}"
    changed = ask(files, "GET", url, headers={"Range": "bytes=100-", "If-Range": '"other"'})
    assert (changed.status_code, changed.content) == (200, CONTENT)
    assert ask(files, "GET", url, headers={"If-None-Match": etag}).status_code == 304
    assert ask(files, "GET", url, headers={"Range": "bytes=99999-"}).status_code == 416
    head = ask(files, "HEAD", url)
    assert (head.content, head.headers["content-length"]) == (b"", str(len(CONTENT)))


@pytest.mark.parametrize(
    "name",
    [
        "secret.txt",
        "../secret.txt",
        "..%2fsecret.txt",
        "%2e%2e/secret.txt",
        "..%5csecret.txt",
        "....//secret.txt",
        "%2fetc%2fpasswd",
        "lora.gguf%00.txt",
        "lora.gguf/",
        "",
    ],
)
def test_no_name_reaches_another_file(files, name):
    response = ask(files, "GET", f"/models/{name}")
    assert response.status_code == 404
    assert "secret" not in response.text.replace("secret.txt", "")


def test_facts_of_a_real_file(smollm2_gguf):
    facts = read_facts(smollm2_gguf, context=512)
    assert (facts.family, facts.quantization, facts.context) == ("llama", "q4_1", 512)
    assert facts.parameters == 134515008
    assert facts.bytes == smollm2_gguf.stat().st_size


@pytest.fixture
def run(tmp_path):
    folder = tmp_path / "run"
    (folder / "export-gguf").mkdir(parents=True)
    (folder / "report.html").write_text("<style>p{}</style><p>report</p>")
    (folder / "report.json").write_text('{"version": 1}')
    return folder


def test_a_report_is_found_beside_the_export(run):
    assert find_report(run) is not None
    assert find_report(None, beside=run / "export-gguf" / "m.gguf") is not None
    assert find_report(None, beside=run.parent / "elsewhere" / "x" / "m.gguf") is None


def test_a_report_opens_by_token_or_once_by_ticket(run):
    app = make_app(make_serving(report=find_report(run)))
    page = ask(app, "GET", "/api/report")
    assert "report" in page.text
    policy = page.headers["content-security-policy"]
    assert "style-src 'unsafe-inline'" in policy
    assert "script-src" not in policy
    assert "sandbox" in policy
    assert ask(app, "GET", "/api/report.json").json() == {"version": 1}
    url = ask(app, "POST", "/api/report/ticket").json()["url"]
    assert ask(app, "GET", url, token=None).status_code == 200
    assert ask(app, "GET", url, token=None).status_code == 404
    assert ask(app, "GET", "/report/guess", token=None).status_code == 404


def test_without_a_report_it_says_so():
    app = make_app(make_serving())
    for method, url in (("GET", "/api/report"), ("POST", "/api/report/ticket")):
        response = ask(app, method, url)
        assert (response.status_code, response.json()["error"]["code"]) == (404, "not_found")


@pytest.fixture
def built(tmp_path):
    static = tmp_path / "static"
    (static / "assets").mkdir(parents=True)
    (static / "index.html").write_text("<p>the app</p>")
    (static / "sw.js").write_text("// worker")
    (static / "assets" / "a-1.js").write_text("plain")
    (static / "assets" / "a-1.js.br").write_bytes(b"brotli")
    (static / "assets" / "e.wasm").write_bytes(b"\0asm")
    (tmp_path / "outside.txt").write_text("secret")
    (tmp_path / "outside").write_text("secret")
    return make_app(make_serving(), static=static)


def test_the_app_is_served_and_routes_itself(built):
    for url in ("/", "/history", "/deep/er"):
        response = ask(built, "GET", url, token=None)
        assert (response.status_code, response.text) == (200, "<p>the app</p>")
        assert response.headers["cache-control"] == "no-cache"
        assert response.headers["etag"]
    assert ask(built, "GET", "/missing.js", token=None).status_code == 404
    for url in ("/V1/models", "//v1/models", "/Models/x", "/API", "/metrics/"):  # never the app's
        assert ask(built, "GET", url, token=None).status_code in (401, 404), url
    assert ask(built, "POST", "/", token=None).status_code == 405
    worker = ask(built, "GET", "/sw.js", token=None)
    assert worker.headers["service-worker-allowed"] == "/"
    assert worker.headers["cache-control"] == "no-cache"


def test_assets_last_and_come_compressed(built):
    plain = ask(built, "GET", "/assets/a-1.js", token=None, headers={"Accept-Encoding": "gzip"})
    assert plain.text == "plain"
    assert "immutable" in plain.headers["cache-control"]
    packed = {"Accept-Encoding": "gzip, br"}

    async def raw():
        async with client(built) as http, http.stream("GET", "/assets/a-1.js", headers=packed) as r:
            return r.headers, b"".join([part async for part in r.aiter_raw()])

    headers, body = asyncio.run(raw())
    assert (headers["content-encoding"], body) == ("br", b"brotli")
    assert headers["content-type"].startswith("text/javascript")
    assert headers["vary"] == "Accept-Encoding"
    wasm = ask(built, "GET", "/assets/e.wasm", token=None)
    assert wasm.headers["content-type"] == "application/wasm"


def test_what_the_system_calls_a_script_does_not_matter(built, monkeypatch):
    monkeypatch.setattr("mimetypes.guess_type", lambda name, strict=True: ("text/plain", None))
    script = ask(built, "GET", "/assets/a-1.js", token=None)
    assert script.headers["content-type"] == "text/javascript; charset=utf-8"
    page = ask(built, "GET", "/", token=None)
    assert page.headers["content-type"] == "text/html; charset=utf-8"


@pytest.mark.parametrize(
    "url",
    ["/../outside.txt", "/..%2foutside.txt", "/%2e%2e/outside.txt", "/assets/../../outside.txt"],
)
def test_nothing_outside_the_app_is_served(built, url):
    assert "secret" not in ask(built, "GET", url, token=None).text


def test_an_app_that_was_not_built_says_so(tmp_path):
    response = ask(make_app(make_serving(), static=tmp_path / "none"), "GET", "/", token=None)
    assert response.status_code == 404
    assert "not in this installation" in response.text


def test_metrics_count_without_names(files):
    ask(files, "GET", "/nobody/knows/mrs-smith", token=None)
    ask(files, "POST", "/v1/chat/completions", json={"model": "mrs-smith", "messages": []})
    text = ask(files, "GET", "/metrics").text
    assert 'medimind_http_requests_total{address="app"' in text
    assert "medimind_slots_used 0.0" in text
    assert "smith" not in text


def test_openapi_tells_of_every_route(files):
    paths = ask(files, "GET", "/api/openapi.json").json()["paths"]
    assert {"/v1/models", "/v1/chat/completions", "/api/about", "/models/{name}"} <= set(paths)

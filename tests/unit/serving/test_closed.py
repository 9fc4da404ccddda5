"""Closed by default: no token, a wrong one, a foreign host, a foreign origin, on every route."""

from __future__ import annotations

import pytest
from serving_stub import CHAT, TOKEN, ask, make_app, make_serving

from medimind.errors import ConfigError
from medimind.serving.access import give_access, make_token, read_tokens
from medimind.serving.guard import PROTECTED, host_name, is_protected

OPEN = {"/healthz", "/readyz", "/report/{ticket}", "/ca.crt"}


def routes():
    app = make_app(make_serving())
    found = [("GET", "/api/openapi.json"), ("GET", "/")]
    for path, methods in app.openapi()["paths"].items():
        found += [(method.upper(), path) for method in methods]
    return found


@pytest.mark.parametrize(("method", "path"), routes())
def test_every_route_is_closed(method, path):
    app = make_app(make_serving())
    url = path.replace("{name}", "x").replace("{ticket}", "x")
    if path not in OPEN and path != "/":
        assert is_protected(path), "a new route is protected, or named in OPEN"
        for wrong in (None, "wrong", TOKEN + "x", TOKEN[:-1], ""):
            response = ask(app, method, url, token=wrong)
            assert response.status_code == 401
            assert response.headers["www-authenticate"] == "Bearer"
    for host in ("evil.example", "ward.test.evil.example", "ward.test@evil.example", "", "x:y:z"):
        response = ask(app, method, url, headers={"Host": host})
        assert response.status_code == 421, host
    for origin in ("https://evil.example", "null", "http://ward.test.evil.example", "file://"):
        response = ask(app, method, url, headers={"Origin": origin})
        assert response.status_code == 403, origin
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize(
    "headers",
    [
        {"Authorization": TOKEN},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": "Bearer"},
        {"Authorization": f"Bearer {TOKEN} {TOKEN}"},
        {"Cookie": f"token={TOKEN}"},
        {"X-Api-Key": TOKEN},
    ],
)
def test_a_token_comes_in_one_way_only(headers):
    app = make_app(make_serving())
    assert ask(app, "GET", "/v1/models", token=None, headers=headers).status_code == 401
    assert ask(app, "GET", f"/v1/models?token={TOKEN}", token=None).status_code == 401


@pytest.mark.parametrize("path", ["/v1/models", "//v1/models", "/./v1/models", "/V1/models"])
def test_no_spelling_of_an_address_gets_around_the_token(path):
    response = ask(make_app(make_serving()), "GET", path, token=None)
    assert response.status_code in (401, 404)
    assert "data" not in response.text


def test_own_pages_and_named_origins_may_ask():
    app = make_app(make_serving(), origins=["https://ward.example"])
    own = ask(app, "GET", "/v1/models", headers={"Origin": "http://ward.test"})
    assert own.status_code == 200
    named = ask(app, "GET", "/v1/models", headers={"Origin": "https://ward.example"})
    assert named.headers["access-control-allow-origin"] == "https://ward.example"
    preflight = {
        "Origin": "https://ward.example",
        "Access-Control-Request-Method": "POST",
        "Access-Control-Request-Headers": "authorization,content-type",
    }
    response = ask(app, "OPTIONS", "/v1/chat/completions", token=None, headers=preflight)
    assert response.status_code == 200
    assert (
        ask(app, "GET", "/v1/models", headers={"Origin": "https://evil.example"}).status_code == 403
    )


@pytest.mark.parametrize(
    ("host", "name"),
    [
        ("ward.test", "ward.test"),
        ("WARD.test:8443", "ward.test"),
        ("[::1]:80", "::1"),
        ("127.0.0.1:8443", "127.0.0.1"),
        ("user@ward.test", ""),
        ("ward.test:99999", ""),
        ("ward.test/x", ""),
        ("ward.test?x", ""),
        ("[::1", ""),
    ],
)
def test_host_names_are_read_strictly(host, name):
    assert host_name(host) == name


def test_every_reply_is_strict():
    app = make_app(make_serving())
    for method, url, token in (
        ("GET", "/", None),
        ("GET", "/healthz", None),
        ("GET", "/v1/models", None),
        ("POST", "/v1/chat/completions", TOKEN),
    ):
        headers = ask(app, method, url, token=token, json=CHAT).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "script-src 'self' 'wasm-unsafe-eval';" in policy
        assert "'unsafe-inline'" not in policy
        assert "'unsafe-eval'" not in policy
        assert headers["cross-origin-opener-policy"] == "same-origin"
        assert headers["cross-origin-embedder-policy"] == "require-corp"
        assert headers["x-content-type-options"] == "nosniff"
        assert "server" not in headers


def test_protected_covers_what_it_says():
    assert all(is_protected(start) and is_protected(f"{start}/x") for start in PROTECTED)
    assert not is_protected("/v1x")


def test_a_token_file_is_made_once_for_its_owner_only(tmp_path):
    path = tmp_path / "tokens"
    first = read_tokens(path)
    assert first == read_tokens(path)
    assert path.stat().st_mode & 0o077 == 0
    path.write_text(f"# ward 3\nanna {make_token()}\n{make_token()}\n")
    assert list(read_tokens(path).values()) == ["anna", "owner"]
    path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        read_tokens(path)


@pytest.mark.parametrize(
    "text", ["short", "two words more than", "", "anna täuschung-lang-genug-hier"]
)
def test_bad_token_files_are_refused(tmp_path, text):
    path = tmp_path / "tokens"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(ConfigError):
        read_tokens(path)


def test_tokens_say_whose_they_are():
    access = give_access({"a" * 20: "anna", "b" * 20: "ben"})
    assert access.who("b" * 20) == "ben"
    assert access.who("c" * 20) is None
    assert access.who("\udcff" * 20) is None

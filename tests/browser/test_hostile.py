"""A model's text is data: nothing in it runs, loads, or can be clicked."""

from __future__ import annotations

import json

import pytest
from app_page import AppPage
from hostile import AWAY, MARK, outputs
from stub_server import answer

BATCH = 50
LOUD = ["a", "img", "script", "iframe", "object", "embed", "link", "style", "base", "meta", "video"]
LOUD += ["audio", "source", "form", "input", "button", "svg", "math", "template", "details"]


def test_there_are_500_different_ones():
    assert len(set(outputs())) == 500


@pytest.fixture
def context(browser):
    opened = browser.new_context()
    yield opened
    opened.close()


def shown_as_text(app: AppPage) -> dict[str, int]:
    """What of the answers became more than text."""
    return app.page.evaluate(
        """(loud) => {
          const answers = ".answer .markdown, .answer .thoughts";
          const all = [...document.querySelectorAll(answers)].flatMap(
            (e) => [...e.querySelectorAll("*")]);
          return {
            answers: document.querySelectorAll(".answer .markdown").length,
            ran: window.__pwned ?? 0,
            loud: all.filter((e) => loud.includes(e.tagName.toLowerCase())).length,
            attributes: all.flatMap((e) => [...e.attributes]).filter(
              (a) => !["class", "start", "scope", "tabindex"].includes(a.name)).length,
          };
        }""",
        LOUD,
    )


def test_hostile_outputs_stay_text(context, stub):
    """As the server streams them, piece by piece, 50 to a conversation and page."""
    every = outputs()
    app = AppPage(context.new_page()).open(stub.link)
    app.ask("warm up")
    for start in range(0, len(every), BATCH):
        batch = every[start : start + BATCH]
        exchanges = [
            {"question": text, "askedAt": i, "answer": finished(text)}
            for i, text in enumerate(batch)
        ]
        keep(app, [{"id": "hostile", "updatedAt": 9e15, "exchanges": exchanges}])
        app.open(f"{stub.url}/history")
        app.page.locator(".entry").first.click()
        app.page.wait_for_selector(".answer .markdown:not(.raw)")
        assert shown_as_text(app) == {"answers": BATCH, "ran": 0, "loud": 0, "attributes": 0}
        app.page.mouse.move(300, 300)
    outside = [url for url in app.requests if not url.startswith((stub.url, "blob:", "data:"))]
    assert outside == []
    assert app.page.url == f"{stub.url}/"


@pytest.mark.parametrize("index", range(0, 500, 50))
def test_a_hostile_stream_stays_text(context, stub, index):
    attack = outputs()[index]
    stub.script = lambda body: answer(attack, thinking=attack, pieces=5)
    app = AppPage(context.new_page()).open(stub.link)
    app.ask(attack)
    found = shown_as_text(app)
    assert (found["ran"], found["loud"], found["attributes"]) == (0, 0, 0)
    assert not [u for u in app.requests if not u.startswith((stub.url, "blob:", "data:"))]


def test_the_attacks_would_work_elsewhere(context, stub):
    """Written as HTML, the same texts run and reach out: the test above can fail."""
    page = context.new_page()
    reached: list[str] = []
    context.route(f"{AWAY}**", lambda route: (reached.append(route.request.url), route.abort()))
    page.goto("about:blank")
    page.set_content("".join(outputs()[:400:10]))
    page.wait_for_timeout(300)
    assert reached
    assert page.evaluate("window.__pwned") or MARK not in page.content()


def finished(text: str) -> dict[str, object]:
    return {
        "variant": "tuned",
        "place": "server",
        "model": "m",
        "thinking": text,
        "thinkingSeconds": 1,
        "text": text,
        "finish": "stop",
        "tokens": 3,
        "tokensPerSecond": 1,
    }


def keep(app: AppPage, conversations: list[dict[str, object]]) -> None:
    app.page.evaluate(
        """(all) => new Promise((done, fail) => {
          const opened = indexedDB.open("medimind");
          opened.onerror = fail;
          opened.onsuccess = () => {
            const step = opened.result.transaction("conversations", "readwrite");
            for (const one of JSON.parse(all)) step.objectStore("conversations").put(one);
            step.oncomplete = () => { opened.result.close(); done(); };
          };
        })""",
        json.dumps(conversations),
    )

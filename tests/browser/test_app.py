"""What a user of the app can rely on, in a real browser against the stand-in server."""

from __future__ import annotations

import json
import threading

import pytest
from app_page import AppPage
from chromium import PHONE
from stub_server import TOKEN, StubServer, answer

THOUGHTS = "The gallbladder is palpable.\nSo it is below the cystic duct."


@pytest.fixture
def context(browser):
    opened = browser.new_context(**PHONE, permissions=["clipboard-read", "clipboard-write"])
    yield opened
    opened.close()


@pytest.fixture
def app(context, stub):
    return AppPage(context.new_page()).open(stub.link)


def test_the_token_is_kept_and_leaves_the_address(app, stub):
    assert app.page.url == f"{stub.url}/"
    app.open(stub.url)
    assert app.ask("Hello") == "You said: Hello"
    assert stub.without_token == []
    assert TOKEN not in json.dumps(app.requests)


def test_thinking_is_open_while_it_lasts_and_folds(app, stub):
    stub.script = lambda body: answer("It is *cancer*.", thinking=THOUGHTS, pieces=4)
    stub.hold = threading.Event()
    app.send("Painless jaundice?")
    fold = app.page.get_by_role("button", name="Thinking")
    fold.wait_for()
    assert fold.get_attribute("aria-expanded") == "true"
    stub.hold.set()
    assert app.answer() == "It is cancer."
    fold = app.page.get_by_role("button", name="Thought for")
    assert fold.get_attribute("aria-expanded") == "false"
    assert not app.page.get_by_text("below the cystic duct").is_visible()
    fold.click()
    assert app.page.get_by_text("below the cystic duct").is_visible()


def test_stopping_hangs_up_and_keeps_what_came(app, stub):
    stub.script = lambda body: answer("One two three four five six", pieces=6)
    stub.hold = threading.Event()
    app.send("Count")
    app.page.get_by_text("One two").first.wait_for()
    app.page.get_by_role("button", name="Stop").click()
    text = app.answer()
    assert text.startswith("One two")
    assert "six" not in text
    assert app.page.get_by_text("Stopped.").first.is_visible()


def test_editing_asking_again_and_copying(app, stub):
    app.ask("First")
    app.send("Second")
    app.page.get_by_text("You said: Second").first.wait_for()
    app.page.get_by_role("button", name="Ask again").click()
    app.answer()
    assert [m["content"] for m in stub.asked[-1]["messages"]][::2] == ["First", "Second"]
    assert stub.asked[-1]["seed"] != stub.asked[-2]["seed"]
    app.page.get_by_role("button", name="Edit").first.click()
    assert app.page.get_by_role("textbox").input_value() == "First"
    app.send("Better")
    app.page.get_by_text("You said: Better").first.wait_for()
    app.answer()
    assert [m["content"] for m in stub.asked[-1]["messages"]] == ["Better"]
    app.page.get_by_role("button", name="Copy").click()
    app.page.get_by_role("button", name="Copied").wait_for()
    assert app.page.evaluate("navigator.clipboard.readText()") == "You said: Better"


def test_the_history_is_searched_exported_and_deleted(app):
    for question in ("About heparin", "About iron"):
        app.ask(question)
    app.view("History")
    app.page.get_by_role("searchbox").fill("HEPARIN")
    assert app.page.locator(".entries li").count() == 1
    app.page.get_by_role("searchbox").fill("")
    with app.page.expect_download() as download:
        app.page.get_by_role("button", name="Export").click()
    exported = json.loads(download.value.path().read_text("utf-8"))
    questions = {c["exchanges"][0]["question"] for c in exported["conversations"]}
    assert questions == {"About heparin", "About iron"}
    app.page.get_by_role("button", name="Open: About iron").or_(
        app.page.get_by_text("About iron")
    ).first.click()
    app.page.get_by_text("You said: About iron").first.wait_for()
    app.view("History")
    app.page.get_by_role("button", name="Delete all").click()
    app.page.get_by_role("dialog").get_by_role("button", name="Delete all").click()
    app.page.get_by_text("No conversations yet").wait_for()


def test_before_and_after_ask_the_same_of_both(app, stub):
    stub.script = lambda body: answer(f"I am {body['model']}")
    app.view("Compare")
    app.page.get_by_role("textbox").fill("Who are you?")
    app.page.get_by_role("button", name="Compare", exact=True).click()
    app.page.get_by_text("One question shows").wait_for()
    sides = app.page.locator(".side .markdown").all_inner_texts()
    assert sides == ["I am base", "I am tuned"]
    first, second = ({**body, "model": ""} for body in stub.asked)
    assert first == second


def test_an_emergency_is_told_whatever_the_model_says(app, stub):
    stub.script = lambda body: answer("That is harmless.")
    app.ask("My father has crushing chest pain")
    notice = app.page.get_by_role("alert")
    assert "heart attack" in notice.inner_text()
    assert "112" in notice.inner_text()
    assert app.page.get_by_text("Not a diagnosis").is_visible()
    app.ask("No chest pain, he denies dyspnoea. Is aspirin useful?")
    assert app.page.get_by_role("alert").count() == 0


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        ({"status": 400, "error": {"message": "temperature is 9"}}, "temperature is 9"),
        ({"status": 401, "error": {"message": "no"}}, "does not know this device"),
        (
            {"status": 400, "error": {"message": "", "code": "context_length_exceeded"}},
            "longer than the model can read",
        ),
    ],
)
def test_what_went_wrong_is_told_and_can_be_tried_again(app, stub, reply, told):
    stub.script = lambda body: [reply]
    app.send("Hello")
    app.page.get_by_role("alert").get_by_text(told).wait_for()
    stub.script = lambda body: answer("Now it works.")
    app.page.get_by_role("button", name="Try again").click()
    assert app.answer() == "Now it works."


def test_a_busy_server_is_asked_again_by_itself(app, stub):
    full = {"status": 429, "error": {"message": "full"}, "headers": {"Retry-After": "1"}}
    replies = [[full], answer("At last.")]
    stub.script = lambda body: replies.pop(0)
    assert app.ask("Hello") == "At last."
    assert len(stub.asked) == 2


def test_a_broken_download_goes_on_and_a_damaged_file_is_refused(context, tmp_path):
    whole = tmp_path / "small-model.gguf"
    whole.write_bytes(bytes(range(256)) * 8_000)
    server = StubServer(files={whole.name: whole})
    try:
        app = AppPage(context.new_page())
        promised = server.about["device_files"][0]
        sha256 = promised["sha256"]
        promised["sha256"] = "0" * 64
        app.open(server.link)
        app.view("Models")
        app.page.get_by_role("button", name=f"Download {whole.name}").click()
        app.page.get_by_role("alert").get_by_text("arrived damaged").wait_for()
        promised["sha256"] = sha256
        app.open(server.link)
        app.page.evaluate(
            """async ([name, size]) => {
              const root = await navigator.storage.getDirectory();
              const folder = await root.getDirectoryHandle("models", { create: true });
              const file = await folder.getFileHandle(name, { create: true });
              const stream = await file.createWritable();
              const bytes = Uint8Array.from({ length: size }, (_, i) => i % 256);
              await stream.write(bytes);
              await stream.close();
            }""",
            [f"{sha256}.part", 1_000_000],
        )
        app.view("Models")
        app.page.get_by_role("button", name=f"Go on downloading {whole.name}").click()
        app.page.get_by_role("button", name=f"Remove {whole.name}").wait_for()
        kept = app.page.evaluate(
            """async (name) => {
              const root = await navigator.storage.getDirectory();
              const folder = await root.getDirectoryHandle("models");
              const blob = await (await folder.getFileHandle(name)).getFile();
              const sum = await crypto.subtle.digest("SHA-256", await blob.arrayBuffer());
              return [...new Uint8Array(sum)].map((b) => b.toString(16).padStart(2, "0")).join("");
            }""",
            f"{sha256}.gguf",
        )
        assert kept == sha256
        app.page.get_by_role("button", name=f"Remove {whole.name}").click()
        app.page.get_by_role("button", name=f"Download {whole.name}").wait_for()
    finally:
        server.close()


def test_a_phone_without_the_server_says_so_and_keeps_its_history(app, stub):
    app.ask("Hello")
    app.page.evaluate("navigator.serviceWorker.ready.then(() => true)")
    stub.close()
    app.page.reload()
    app.page.wait_for_selector("h1")
    app.send("Hello again")
    app.page.get_by_role("alert").get_by_text("cannot be reached").wait_for()
    app.view("History")
    assert app.page.locator(".entries li").count() == 2

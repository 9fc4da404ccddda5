"""The phone app as a user works it: by names and roles, as a screen reader would."""

from __future__ import annotations

from typing import Any

BUSY = ".answer[aria-busy]"


class AppPage:
    """One page of the app; remembers requests that leave it and errors in its console."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.errors: list[str] = []
        self.requests: list[str] = []
        page.on("pageerror", lambda error: self.errors.append(str(error)))
        page.on("console", lambda m: m.type == "error" and self.errors.append(m.text))
        page.context.on("request", lambda request: self.requests.append(request.url))

    def open(self, link: str) -> AppPage:
        """Open a link and wait for the app."""
        self.page.goto(link)
        self.page.wait_for_selector("h1")
        return self

    def view(self, name: str) -> None:
        """Go to a view by the navigation."""
        self.page.get_by_role("navigation").get_by_role("link", name=name).click()

    def send(self, question: str) -> None:
        """Send a question and wait until it is under way."""
        self.page.get_by_role("textbox").fill(question)
        self.page.get_by_role("button", name="Send question").click()

    def answer(self, *, timeout: float = 30_000) -> str:
        """The last answer's text, once it is complete."""
        self.page.wait_for_selector(".answer footer", timeout=timeout)
        self.page.wait_for_selector(BUSY, state="detached", timeout=timeout)
        last = self.page.locator(".answer").last
        answered = last.locator(".markdown")
        # A small model may think until it is cut off: its thoughts are what it wrote.
        return answered.inner_text() if answered.count() else last.text_content() or ""

    def ask(self, question: str, *, timeout: float = 30_000) -> str:
        """Ask in a new conversation; the answer's text."""
        fresh = self.page.get_by_role("button", name="New conversation")
        if fresh.count():
            fresh.click()
        self.send(question)
        return self.answer(timeout=timeout)

    def ask_briefly(self, question: str, *, characters: int, timeout: float) -> str:
        """Ask in a new conversation and stop once so much is written; what was written."""
        fresh = self.page.get_by_role("button", name="New conversation")
        if fresh.count():
            fresh.click()
        self.send(question)
        self.page.wait_for_function(
            """(characters) => {
              const parts = document.querySelectorAll(".answer .markdown, .answer .thoughts");
              const written = [...parts].map((part) => part.textContent).join("");
              return written.length > characters || document.querySelector(".answer footer");
            }""",
            arg=characters,
            timeout=timeout,
        )
        stop = self.page.get_by_role("button", name="Stop")
        if stop.count():
            stop.click()
        self.page.wait_for_selector(".answer footer", timeout=timeout)
        parts = self.page.locator(".answer .markdown, .answer .thoughts")
        return "".join(parts.all_text_contents())

    def choose(self, option: str) -> None:
        """Choose under Models, and go back to asking."""
        self.view("Models")
        self.page.get_by_role("radio", name=option).check()
        self.view("Ask")

    def install(self, name: str, *, timeout: float = 90_000) -> None:
        """Download a file onto the device, under Models."""
        self.page.get_by_role("button", name=f"Download {name}").click()
        self.page.get_by_role("button", name=f"Remove {name}").wait_for(timeout=timeout)

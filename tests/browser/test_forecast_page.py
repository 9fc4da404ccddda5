"""The forecast page: a patient's records in, chart, figures, risks and account out."""

from __future__ import annotations

import json

import pytest
from app_page import AppPage
from chromium import DESKTOP, PHONE
from hostile import MARK, outputs
from stub_server import EXAMPLE, FORECAST, StubServer

RECORDS = "patient,time,code,value,unit\nA17,0,98979-8,70.1,mL/min\n"


@pytest.fixture
def server():
    opened = StubServer(forecast=json.loads(FORECAST.read_text("utf-8")))
    yield opened
    opened.close()


@pytest.fixture
def app(browser, server):
    context = browser.new_context(**PHONE)
    yield AppPage(context.new_page()).open(server.link)
    context.close()


def forecast_of_file(app: AppPage, name: str, kind: str, text: str) -> None:
    app.view("Forecast")
    file = {"name": name, "mimeType": kind, "buffer": text.encode()}
    app.page.locator("input[type=file]").set_input_files(file)
    app.page.wait_for_selector(".course")


def test_a_file_becomes_chart_figures_risks_and_account(app, server):
    forecast_of_file(app, "a17.csv", "text/csv", RECORDS)
    page = app.page
    assert server.records == [("text/csv", RECORDS)]
    assert page.evaluate("document.activeElement.textContent") == "Patient A17"
    assert page.locator(".course").count() == 2
    egfr = page.get_by_role("region", name="eGFR", exact=True)
    assert "90\u00a0%: 60 to 76" in egfr.inner_text()
    assert egfr.get_by_role("img").get_attribute("aria-label").startswith("Chart of eGFR. 67")
    figures = egfr.get_by_role("table", name="eGFR, expected values and intervals")
    assert figures.get_by_role("row").nth(3).inner_text().split() == [
        *("1", "year", "68", "65–72", "62–75", "60–76")
    ]
    assert "17\u00a0%" in page.get_by_role("region", name="eGFR < 60").inner_text()
    assert "Simulated, not calibrated" in page.get_by_role("region", name="eGFR < 15").inner_text()
    assert "18 of 20 rows used, 2 left out" in page.locator(".findings").inner_text()
    whole = page.locator(".forecast").inner_text()
    assert "mL/min/1.73 m²" in whole
    assert "{1.73_m2}" not in whole
    assert "Among 40 similar patients" in whole
    assert app.errors == []
    app.view("Ask")
    app.view("Forecast")
    page.wait_for_selector(".course")
    page.get_by_role("button", name="Other records").click()
    page.get_by_text("Choose a file").wait_for()


def test_the_chart_is_walked_by_keyboard(app):
    forecast_of_file(app, "a17.csv", "text/csv", RECORDS)
    slider = app.page.get_by_role("slider", name="Point in time of eGFR")
    assert slider.get_attribute("aria-valuetext").startswith("In 1 year 68 mL/min/1.73 m²")
    slider.focus()
    app.page.keyboard.press("ArrowRight")
    assert slider.get_attribute("aria-valuetext").startswith("In 18 months")
    app.page.keyboard.press("Home")
    assert slider.get_attribute("aria-valuetext").startswith("3.4 years before, ")
    assert "3.4 years before" in app.page.locator(".told").first.inner_text()


def test_what_is_hardly_known_is_marked(app):
    forecast_of_file(app, "bundle.json", "application/json", '{"resourceType": "Bundle"}')
    patients = app.page.get_by_role("combobox")
    patients.focus()
    patients.select_option("B04")
    app.page.get_by_role("heading", name="Patient B04").wait_for()
    assert app.page.evaluate("document.activeElement.tagName") == "SELECT"
    marks = app.page.locator(".course .mark").all_inner_texts()
    assert len(marks) == 2
    assert all(mark.startswith("Insufficient evidence:") for mark in marks)
    assert "Too little is known" in app.page.locator(".forecast").inner_text()


def test_records_are_pasted_or_the_example_is_taken(app, server):
    app.view("Forecast")
    app.page.get_by_role("button", name="Use the example").click()
    app.page.wait_for_selector(".course")
    app.page.get_by_role("button", name="Other records").click()
    app.page.get_by_role("textbox").fill('{"resourceType": "Bundle", "entry": []}')
    app.page.get_by_role("button", name="Forecast", exact=True).click()
    app.page.wait_for_selector(".course")
    (first, second) = server.records
    assert first == ("text/csv", EXAMPLE)
    assert second[0] == "application/fhir+json"
    stored = app.page.evaluate(
        """() => new Promise((done) => {
          const opened = indexedDB.open("medimind");
          opened.onsuccess = () => {
            const db = opened.result;
            const all = [...db.objectStoreNames].map((name) => new Promise((found) => {
              const got = db.transaction(name).objectStore(name).getAll();
              got.onsuccess = () => found(JSON.stringify(got.result));
            }));
            Promise.all(all).then((texts) => { db.close(); done(texts.join("")); });
          };
        })"""
    )
    assert "Bundle" not in stored
    assert "A17" not in stored


def test_what_cannot_be_forecast_is_told(app, server):
    server.forecast = {"error": {"message": "records: no column time", "code": None}}
    app.view("Forecast")
    app.page.get_by_role("textbox").fill("patient,when\n")
    app.page.get_by_role("button", name="Forecast", exact=True).click()
    app.page.get_by_role("alert").get_by_text("no column time").wait_for()
    server.about["limits"]["max_forecast_bytes"] = 100
    app.page.reload()
    app.page.wait_for_selector("h1")
    app.page.get_by_role("textbox").fill("x" * 101)
    app.page.get_by_role("button", name="Forecast", exact=True).click()
    app.page.get_by_role("alert").get_by_text("larger than the server takes").wait_for()


def test_paper_shows_all_of_it(browser, server, tmp_path):
    context = browser.new_context(color_scheme="dark", **DESKTOP)
    app = AppPage(context.new_page()).open(server.link)
    forecast_of_file(app, "a17.csv", "text/csv", RECORDS)
    page = app.page
    page.evaluate("dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.locator(".forecast details:not([open])").count() == 0
    assert page.get_by_text("Correct unit or code.").is_visible()
    assert not page.get_by_role("navigation").is_visible()
    assert not page.get_by_role("slider").first.is_visible()
    height = page.evaluate("document.querySelector('.forecast').getBoundingClientRect().height")
    assert page.evaluate("document.documentElement.scrollHeight") > height
    page.emulate_media(media="screen")
    page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert page.locator(".forecast details[open]").count() == 0
    assert page.pdf(path=tmp_path / "forecast.pdf", format="A4").startswith(b"%PDF")
    context.close()


def test_without_a_forecaster_there_is_no_such_page(browser, stub):
    context = browser.new_context(**DESKTOP)
    app = AppPage(context.new_page()).open(stub.link)
    app.page.get_by_role("link", name="About").wait_for()
    assert app.page.get_by_role("link", name="Forecast").count() == 0
    app.open(f"{stub.url}/forecast")
    app.page.get_by_text("This server has no forecaster").wait_for()
    assert app.page.get_by_text("Choose a file").locator("..").locator("input").is_disabled()
    context.close()


def test_nothing_in_a_forecast_runs(browser, server):
    """500 hostile texts in every place where the answer, and so a patient's file, has text."""
    every = outputs()
    context = browser.new_context(**DESKTOP)
    app = AppPage(context.new_page()).open(server.link)
    for start in range(0, len(every), 50):
        server.forecast = spoiled(every[start : start + 50])
        app.page.get_by_role("link", name="Forecast").click()
        forecast_of_file(app, every[start][:200], "text/csv", RECORDS)
        found = app.page.evaluate(
            """() => {
              const all = [...document.querySelectorAll(".forecast *")];
              const fine = ["DIV", "H1", "H2", "H3", "P", "SPAN", "BUTTON", "LABEL", "SELECT",
                "OPTION", "DETAILS", "SUMMARY", "UL", "LI", "STRONG", "SECTION", "HEADER", "SMALL",
                "DL", "DT", "DD", "TABLE", "CAPTION", "THEAD", "TBODY", "TR", "TH", "TD", "METER",
                "INPUT", "svg", "g", "path", "line", "text", "circle"];
              return {
                ran: window.__pwned ?? 0,
                loud: all.map((e) => e.tagName).filter((tag) => !fine.includes(tag)),
                handlers: all.flatMap((e) => [...e.attributes]).map((a) => a.name)
                  .filter((name) => /^on|^src|href|style/.test(name)),
                texts: document.querySelectorAll(".account p").length,
              };
            }"""
        )
        assert found == {"ran": 0, "loud": [], "handlers": [], "texts": found["texts"]}
        assert found["texts"] > 50
        app.page.get_by_role("button", name="Other records").click()
    assert not [u for u in app.requests if not u.startswith((server.url, "blob:", "data:"))]
    assert MARK not in app.page.url
    context.close()


def spoiled(attacks: list[str]) -> dict[str, object]:
    """The answer with hostile names, units, reasons, findings, and an account made of them."""
    answer = json.loads(FORECAST.read_text("utf-8"))
    answer["patients"] = answer["patients"][:1]
    document = answer["patients"][0]["document"]
    document["patient"] = attacks[0]
    for index, course in enumerate(document["codes"]):
        course |= {
            "name": attacks[index + 1],
            "display_unit": attacks[index + 3],
            "code": f"c{index}",
        }
        course["evidence"] = {
            "is_sufficient": False,
            "reasons": attacks[5:8],
            "num_measurements": 1,
        }
        course["model"]["method"] = attacks[8]
        for place, line in enumerate(course["lines"]):
            line["name"] = attacks[9 + place]
    for index, risk in enumerate(document["risks"]):
        risk |= {"name": attacks[12 + index], "state": attacks[15]}
    answer["unused_codes"] = attacks[36:40]
    answer["findings"] = [
        {"kind": "x", "row": 1, "patient": one, "code": one, "found": one, "fix": one}
        | {"left_out": True}
        for one in attacks[16:36]
    ]
    answer["patients"][0]["narrative"]["text"] = "\n".join(attacks)
    return answer

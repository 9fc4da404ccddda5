import { render } from "preact";
import { describe, expect, it, vi } from "vitest";

import { fetchExample, fetchForecast, mediaType, type Course, type ForecastAnswer } from "../src/forecast/answer";
import { CourseCard } from "../src/forecast/course-card";
import { Findings } from "../src/forecast/findings";
import { summary, told } from "../src/forecast/fan-chart";
import { geometry, ticks } from "../src/forecast/geometry";
import { Risks } from "../src/forecast/risks";
import { day, decimals, duration, interval, percent, printed, since } from "../src/forecast/wording";
import said from "./forecast-answer.json";

const answer = said as unknown as ForecastAnswer;
const [known, hardlyKnown] = answer.patients.map(({ document }) => document) as [
  ForecastAnswer["patients"][number]["document"],
  ForecastAnswer["patients"][number]["document"],
];
const clock = { lastVisit: known.last_visit_days, firstDay: answer.patients[0]!.first_day };
const [egfr, hba1c] = known.codes as [Course, Course];

function shown(element: preact.VNode): HTMLElement {
  const root = document.createElement("div");
  render(element, root);
  return root;
}

describe("wording", () => {
  it("has the signs of print", () => expect(printed("HbA1c >= 6.5 %")).toBe("HbA1c ≥ 6.5\u00a0%"));

  it("knows days where the records have dates", () => {
    expect(day("2022-01-17", 43)).toBe(new Date("2022-03-01T12:00:00Z").toLocaleDateString(undefined, { dateStyle: "medium" }));
    expect([day(null, 3), day("soon", 3), day("2022-01-17", 1e12)]).toEqual([null, null, null]);
  });

  it("says times as one would", () => {
    expect([182, 274, 365, 548, 730, 1096, 100].map(duration)).toEqual(
      ["6 months", "9 months", "1 year", "18 months", "2 years", "3 years", "100 days"],
    );
    expect([20, 231, 1228].map(since)).toEqual(["20 days", "8 months", "3.4 years"]);
  });

  it("gives figures the digits that they are worth, and no false certainty", () => {
    expect([decimals(egfr), decimals(hba1c)]).toEqual([0, 1]);
    expect([0, 0.05, 2.27, 17.09, 99.64, 99.95, null].map(percent)).toEqual(
      ["< 0.1\u00a0%", "< 0.1\u00a0%", "2.3\u00a0%", "17\u00a0%", "99.6\u00a0%", "> 99.9\u00a0%", "–"],
    );
    expect(interval([null, 3], 1)).toBe("–");
  });
});

describe("the chart", () => {
  const drawn = geometry(egfr, known.last_visit_days, 360, 240);

  it("keeps everything within its frame, and time in order", () => {
    expect(drawn.stops.length).toBe(egfr.history.length + egfr.forecasts.length);
    for (const { x, y } of drawn.stops) {
      expect(x).toBeGreaterThanOrEqual(drawn.left - 0.01);
      expect(x).toBeLessThanOrEqual(drawn.right + 0.01);
      expect(y).toBeGreaterThanOrEqual(drawn.top);
      expect(y).toBeLessThanOrEqual(drawn.bottom);
    }
    const xs = drawn.stops.map(({ x }) => x);
    expect(xs).toEqual(xs.toSorted((a, b) => a - b));
    expect(drawn.stops.filter(({ kind }) => kind === "visit").at(-1)!.x).toBeCloseTo(drawn.today);
  });

  it("draws the lines that are near and names those that are not", () => {
    expect(drawn.lines.map(({ line }) => line.name)).toEqual(["eGFR < 60"]);
    expect(drawn.unseenLines.map(({ name }) => name)).toEqual(["eGFR < 15"]);
    const top = drawn.stops.find(({ kind, index }) => kind === "visit" && egfr.history[index]!.value === 77.4)!;
    expect(drawn.lines[0]!.y).toBeGreaterThan(top.y);
  });

  it("nests the narrower interval in the wider", () => {
    const height = (path: string): number => {
      const ys = [...path.matchAll(/[ML][\d.]+ ([\d.]+)/g)].map(([, y]) => Number(y));
      return Math.max(...ys) - Math.min(...ys);
    };
    const heights = drawn.bands.map(({ path }) => height(path));
    expect(drawn.bands.map(({ level }) => level)).toEqual(["90", "80", "50"]);
    expect(heights).toEqual(heights.toSorted((a, b) => b - a));
  });

  it("does not squeeze the way ahead beside a long past", () => {
    const long = { ...egfr, history: [{ time_days: -20_000, value: 90 }, ...egfr.history] };
    const squeezed = geometry(long, known.last_visit_days, 360, 240);
    expect(squeezed.stops.length).toBe(drawn.stops.length);
    expect((squeezed.right - squeezed.today) / (squeezed.right - squeezed.left)).toBeGreaterThan(0.28);
    expect(squeezed.stops[0]!.index).toBe(1);
  });

  it("survives a single value, a flat course and none at all", () => {
    const flat = { ...egfr, history: [{ time_days: 0, value: 5 }], forecasts: [], lines: [], neighbours: null };
    for (const course of [flat, { ...flat, history: [{ time_days: 0, value: 0 }] }, ...hardlyKnown.codes]) {
      const { stops, xTicks, yTicks } = geometry(course, hardlyKnown.last_visit_days, 300, 200);
      for (const { x, y } of stops) expect(Number.isFinite(x) && Number.isFinite(y)).toBe(true);
      expect(xTicks.length + yTicks.length).toBeLessThan(30);
    }
  });

  it("has round ticks", () => {
    expect(ticks(57.3, 84, 4)).toEqual([60, 70, 80]);
    expect(ticks(-3.4, 3, 7, true)).toEqual([-3, -2, -1, 0, 1, 2, 3]);
    expect(ticks(0, 0.3, 3)).toEqual([0, 0.1, 0.2, 0.3]);
  });
});

describe("what is said of a course", () => {
  it("holds the document's own figures", () => {
    expect(summary(egfr)).toBe("67 mL/min/1.73 m² last. In 1 year 68 expected, 90\u00a0% interval 60 to 76.");
    expect(told(egfr, { kind: "visit", index: 7 }, { ...clock, firstDay: null })).toEqual(["Last visit", "67 mL/min/1.73 m², measured", ""]);
    expect(told(hba1c, { kind: "ahead", index: 2 }, clock)[2]).toContain("90\u00a0%: 7.2 to 8.7");
    expect(summary(hardlyKnown.codes[1]!)).toContain("Never measured.");
  });

  it("stands in a table too, and marks what is not enough", () => {
    const enough = shown(<CourseCard course={egfr} clock={clock} />);
    expect(enough.querySelectorAll(".table tbody tr").length).toBe(egfr.forecasts.length);
    expect(enough.querySelector(".mark")).toBeNull();
    expect(enough.querySelector("svg")!.getAttribute("aria-label")).toContain("60 to 76");
    expect(enough.querySelector("input[type=range]")!.getAttribute("aria-valuetext")).toContain("In 1 year");
    expect(enough.textContent).toContain("ridge regression on the history");
    expect(enough.textContent).toContain("5,451 errors of 400 other patients");
    expect(enough.innerHTML).not.toContain("{1.73_m2}");
    expect(enough.querySelector("details tbody th")!.textContent).toBe(`Last visit, ${day("2025-05-29", 0)}`);
    const few = shown(<CourseCard course={hardlyKnown.codes[0]!} clock={clock} />);
    expect(few.querySelector(".mark")!.textContent).toContain("fewer measurements than asked for");
    expect(few.querySelector(".fan svg")!.getAttribute("class")).toBe("weak");
  });

  it("says what intervals held on other patients, where the forecaster knows it", () => {
    expect(shown(<CourseCard course={egfr} clock={clock} />).textContent).not.toContain("intervals held");
    const model = { ...egfr.model, interval_90_held_percent: { visits: 90.21, last_visits: null } };
    const card = shown(<CourseCard course={{ ...egfr, model }} clock={clock} />);
    expect(card.textContent).toContain("90.2\u00a0% of their measurements, – of last ones");
  });

  it("gives risks with what they were calibrated on", () => {
    const root = shown(<Risks risks={known.risks} />);
    const [near, far, crossed] = [...root.querySelectorAll(".risk")] as [Element, Element, Element];
    expect(near.textContent).toContain("17\u00a0%");
    expect(near.textContent).toContain("435 events");
    expect(far.querySelector(".mark")!.textContent).toContain("Simulated, not calibrated");
    expect(crossed.textContent).toContain("Has crossed the line already");
    expect(crossed.querySelectorAll("thead th").length).toBe(2);
    const unknown = shown(<Risks risks={hardlyKnown.risks} />);
    expect(unknown.textContent).toContain("Too little is known");
  });

  it("tells which rows were left out", () => {
    const text = shown(<Findings answer={answer} />).textContent!;
    expect(text).toContain("18 of 20 rows used, 2 left out");
    expect(text).toContain("Row 17 · A17 · 4548-4");
    expect(text).toContain("Correct unit or code.");
    expect(text).toContain("No model here forecasts: my-own.");
    const clean = { ...answer, findings: [], unused_codes: [], validation: { ...answer.validation, rows_in: 4, rows_kept: 4 } };
    expect(shown(<Findings answer={clean} />).textContent).toBe("All 4 rows of the records were used.");
  });
});

describe("asking the server", () => {
  it("tells FHIR from a table", () => {
    expect(mediaType('\ufeff  {"resourceType": "Bundle"}')).toBe("application/fhir+json");
    expect(mediaType("patient,time,code,value,unit")).toBe("text/csv");
  });

  it("sends the records with the token and reads the answer", async () => {
    const fetched = vi.fn(async () => Response.json(said));
    vi.stubGlobal("fetch", fetched);
    expect((await fetchForecast("patient,time\n", "secret")).patients.length).toBe(2);
    const [path, init] = fetched.mock.calls[0] as unknown as [string, RequestInit];
    expect(path).toBe("/api/forecast");
    expect(init.body).toBe("patient,time\n");
    const headers = init.headers as Headers;
    expect([headers.get("Authorization"), headers.get("Content-Type")]).toEqual(["Bearer secret", "text/csv"]);
  });

  it("passes on why not, and never shows an empty answer", async () => {
    vi.stubGlobal("fetch", async () => Response.json({ error: { message: "no column time", code: null } }, { status: 400 }));
    await expect(fetchForecast("x", null)).rejects.toMatchObject({ trouble: "refused", detail: "no column time" });
    vi.stubGlobal("fetch", async () => Response.json({ patients: [] }));
    await expect(fetchForecast("x", null)).rejects.toMatchObject({ trouble: "refused" });
  });

  it("takes the server's example, else its own", async () => {
    vi.stubGlobal("fetch", async () => Response.json({ codes: [], example: "patient,x\n" }));
    expect(await fetchExample(null)).toBe("patient,x\n");
    vi.stubGlobal("fetch", async () => new Response("", { status: 404 }));
    expect(await fetchExample(null)).toMatch(/^patient,time,code,value,unit\n/);
  });
});

"""More than forty kinds of bad data planted in good records: is each found, at its row?

    python benchmarks/forecast_bad_data.py

Each case takes a clean cohort, spoils it in one way and asks for a finding of the right kind at the
right row or patient, and for counts that add up. Beside it: nothing may be found in the clean
cohort, and nothing untrue in pbc2 and in the FHIR bundles of synthea. What is found there is
checked against a plain recount (the same patient, code and time twice).
"""

from __future__ import annotations

import copy
import csv
import io
import json
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

from forecast_sets import LONGITUDINAL

from medimind.config.forecast import EventColumns, InputConfig, Limits, ValueColumn
from medimind.errors import DataError
from medimind.forecasting.records.read import read_records
from medimind.forecasting.simulate import simulate_cohort
from medimind.tracking.provenance import collect

RESULT = Path(__file__).parent / "results" / "forecast_bad_data.json"
GFR, SUGAR = "98979-8", "4548-4"
Rows = list[list[str]]


@dataclass(frozen=True)
class Case:
    """One way to spoil records.

    Attributes:
        name: What it is.
        kind: The finding that is wanted.
        text: Content of the file.
        row: Where the finding must be; 0 takes any.
        config: How the file is read.
        suffix: Of the file.
        refused: The file must be refused whole, with this word in the message.
    """

    name: str
    kind: str
    text: bytes
    row: int = 0
    config: InputConfig = field(default_factory=InputConfig)
    suffix: str = ".csv"
    refused: str = ""


HEADER = ["patient", "time", "code", "value", "unit"]


def clean_rows() -> Rows:
    records = simulate_cohort(60, same_number=True, num_visits=6, seed=9).records
    return [
        [str(p), f"{t:g}", str(c), f"{v:g}", str(u)]
        for p, t, c, v, u in zip(
            records.patient, records.time_days, records.code, records.value, records.unit
        )
    ]


def csv_bytes(rows: Rows, header: list[str] = HEADER) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows([header, *rows])
    return text.getvalue().encode()


def cell(column: int, text: str, *, row: int = 101) -> bytes:
    rows = clean_rows()
    rows[row - 1][column] = text
    return csv_bytes(rows)


def times(factor: float, *, code: str, row: int) -> bytes:
    rows = clean_rows()
    assert rows[row - 1][2] == code
    rows[row - 1][3] = f"{float(rows[row - 1][3]) * factor:g}"
    return csv_bytes(rows)


def column(index: int, change: Callable[[list[str]], str], code: str = "") -> bytes:
    rows = clean_rows()
    for row in rows:
        if not code or row[2] == code:
            row[index] = change(row)
    return csv_bytes(rows)


def dated(rows: Rows) -> Rows:
    start = date(2020, 1, 1).toordinal()
    return [[p, date.fromordinal(start + int(float(t))).isoformat(), *rest] for p, t, *rest in rows]


def with_dates(row: int, text: str) -> bytes:
    rows = dated(clean_rows())
    rows[row - 1][1] = text
    return csv_bytes(rows)


def more(extra: Callable[[Rows], Rows]) -> bytes:
    rows = clean_rows()
    return csv_bytes(rows + extra(rows))


def local(name: str, row: int, text: str) -> bytes:
    """HbA1c under a name that nobody knows, with one cell changed."""
    rows = clean_rows()
    for one in rows:
        if one[2] == SUGAR:
            one[2], one[4] = name, "U/L"
    rows[row - 1][3] = text
    return csv_bytes(rows)


def status(text: str) -> bytes:
    rows = [[*row, "final"] for row in clean_rows()]
    rows[100][5] = text
    return csv_bytes(rows, [*HEADER, "status"])


def facts(change: Callable[[Rows], None]) -> bytes:
    rows = [[*row, "58", "4000", "0"] for row in clean_rows()]
    change(rows)
    return csv_bytes(rows, [*HEADER, "age", "end", "died"])


FACTS = InputConfig(covariates=("age",), events={"death": EventColumns(time="end", status="died")})
WIDE = InputConfig(values={"gfr": ValueColumn(code="egfr", unit="mL/min/{1.73_m2}")})


def set_cells(place: int, text: str, *rows: int) -> Callable[[Rows], None]:
    def change(all_rows: Rows) -> None:
        for row in rows:
            all_rows[row - 1][place] = text

    return change


def fhir(change: Callable[[list[dict]], None], *, lines: bool = False) -> bytes:
    resources: list[dict] = [
        {"resourceType": "Patient", "id": "a", "birthDate": "1960-02-01", "gender": "female"}
    ]
    for month in range(1, 9):
        resources.append(
            {
                "resourceType": "Observation",
                "id": f"o{month}",
                "status": "final",
                "code": {"coding": [{"system": "http://loinc.org", "code": GFR}]},
                "subject": {"reference": "Patient/a"},
                "effectiveDateTime": f"2021-0{month}-01",
                "valueQuantity": {"value": 80 - month, "code": "mL/min/{1.73_m2}"},
            }
        )
    change(resources)
    if lines:
        return "\n".join(
            one if isinstance(one, str) else json.dumps(one) for one in resources
        ).encode()
    return json.dumps(
        {"resourceType": "Bundle", "type": "collection",
         "entry": [{"resource": one} for one in resources]}
    ).encode()  # fmt: skip


def fields(index: int, **values: object) -> Callable[[list[dict]], None]:
    def change(resources: list[dict]) -> None:
        for name, value in values.items():
            if value is None:
                resources[index].pop(name, None)
            else:
                resources[index][name] = value

    return change


def cases() -> list[Case]:
    quantity = {"value": 70, "code": "mL/min/{1.73_m2}"}
    wide = [[row[0], row[1], row[3]] for row in clean_rows() if row[2] == GFR]
    wide_bad = copy.deepcopy(wide)
    wide_bad[50][2] = "seventy"
    first = {row[0]: index for index, row in reversed(list(enumerate(clean_rows(), 1)))}
    names = list(first)
    return [
        Case("patient empty", "patient-missing", cell(0, ""), 101),
        Case("patient NA", "patient-missing", cell(0, "NA"), 101),
        Case("time empty", "time-missing", cell(1, ""), 101),
        Case("time a word", "time-unreadable", cell(1, "soon"), 101),
        Case("time NaN", "time-not-finite", cell(1, "nan"), 101),
        Case("time infinite", "time-not-finite", cell(1, "inf"), 101),
        Case("impossible date", "time-unreadable", with_dates(101, "2021-02-30"), 101),
        Case("date of another form", "time-unreadable", with_dates(101, "03/04/2021"), 101),
        Case("date in the future", "time-future", with_dates(101, "2199-01-01"), 101),
        Case("date of year 1", "time-impossible", with_dates(101, "0001-01-01"), 101),
        Case("date after as_of", "time-future", with_dates(101, "2025-06-01"), 101,
             InputConfig(as_of=date(2025, 5, 1))),
        Case("times in seconds read as days", "time-impossible",
             column(1, lambda row: f"{float(row[1]) * 86400:g}"), 103),
        Case("rows back in time", "time-unsorted", csv_bytes(swap(clean_rows(), 103, 105))),
        Case("code empty", "code-missing", cell(2, ""), 101),
        Case("LOINC code with a wrong check digit", "code-check-digit", cell(2, "98979-3"), 101),
        Case("value empty", "value-missing", cell(3, ""), 101),
        Case("value null", "value-missing", cell(3, "null"), 101),
        Case("value a word", "value-text", cell(3, "haemolysed"), 101),
        Case("value with its unit", "value-text", cell(3, "61 mL/min"), 101),
        Case("value below a limit of detection", "value-censored", cell(3, "<15"), 101),
        Case("value above a limit", "value-censored", cell(3, "> 90"), 101),
        Case("decimal comma", "value-comma", cell(3, "61,5"), 101),
        Case("value NaN", "value-not-finite", cell(3, "NaN"), 101),
        Case("value infinite", "value-not-finite", cell(3, "-Infinity"), 101),
        Case("negative value", "value-physiology", cell(3, "-61"), 101),
        Case("value beyond physiology", "value-physiology", cell(3, "412"), 101),
        Case("score beyond its range", "value-physiology",
             more(lambda _: [[names[0], str(t), "72106-8", "31" if t == 9 else "27", "{score}"]
                             for t in range(10)]), 730),
        Case("value beyond the user's limits", "value-physiology", cell(3, "200"), 101,
             InputConfig(limits={GFR: Limits(low=1, high=180)})),
        Case("999 for unknown", "value-placeholder", cell(3, "999"), 101),
        Case("-9 for unknown, code of one's own", "value-placeholder",
             local("myscore", 102, "-9"), 102),
        Case("value ten times as high", "value-tenfold", times(10, code=SUGAR, row=104), 104,
             InputConfig(limits={SUGAR: Limits(low=0, high=1e9)})),
        Case("value a tenth", "value-tenfold", times(0.1, code=GFR, row=103), 103),
        Case("value a hundred times as high", "value-hundredfold",
             times(100, code=SUGAR, row=104), 104,
             InputConfig(limits={SUGAR: Limits(low=0, high=1e9)})),
        Case("value a thousand times as high", "value-thousandfold",
             times(1000, code=GFR, row=103), 103,
             InputConfig(limits={GFR: Limits(low=0, high=1e9)})),
        Case("value a thousandth, code of one's own", "value-thousandfold",
             local("mymarker", 104, "0.0061"), 104),
        Case("unit empty", "unit-missing", cell(4, ""), 101),
        Case("unit of another quantity", "unit-not-allowed", cell(4, "mg/dL"), 101),
        Case("unit that is none", "unit-unknown", cell(4, "furlongs"), 101),
        Case("percent for mmol/mol, code of one's own", "unit-mixed",
             csv_bytes(mixed_unit(clean_rows())), 104),
        Case("whole column in another unit than it says", "unit-suspect",
             csv_bytes(wrong_unit(clean_rows()))),
        Case("same row twice", "duplicate", more(lambda rows: [rows[100]]), 721),
        Case("same time, another value", "conflict",
             more(lambda rows: [[*rows[100][:3], f"{float(rows[100][3]) + 3:g}", rows[100][4]]]),
             721),
        Case("the same value in two units", "duplicate",
             more(lambda rows: [[*rows[101][:3], f"{float(rows[101][3]) * 10.93135 - 23.52427}",
                                 "mmol/mol"]]), 721),
        Case("two codes with the same rows", "codes-identical",
             more(lambda rows: [[r[0], r[1], "62238-1", r[3], r[4]] for r in rows if r[2] == GFR])),
        Case("a patient under two names", "identical-patients",
             more(lambda rows: [["copy", *row[1:]] for row in rows if row[0] == names[3]])),
        Case("a name in two spellings", "patient-spelling", cell(0, "s0000009"), 0),
        Case("one visit only", "few-visits",
             more(lambda rows: [["single", "0", GFR, "80", rows[0][4]]])),
        Case("no usable row of a patient", "no-rows-left",
             more(lambda rows: [["empty", "0", GFR, "-80", rows[0][4]]])),
        Case("status entered in error", "status-entered-in-error", status("entered-in-error"), 101),
        Case("status preliminary", "status-not-final", status("preliminary"), 101),
        Case("status outside the value set", "status-unknown", status("done"), 101),
        Case("a fact that changes", "covariate-changes", facts(set_cells(5, "59", 104)), 104,
             FACTS),
        Case("status of an event outside its values", "event-status",
             facts(set_cells(7, "maybe", *range(1, 13))), 1, FACTS),
        Case("no time of an event", "event-time", facts(set_cells(6, "", *range(1, 13))), 1,
             FACTS),
        Case("two times of an event", "event-changes", facts(set_cells(6, "3000", 3)), 3, FACTS),
        Case("measured after death", "after-event",
             facts(set_cells(6, "100", *range(1, 13))), 0, FACTS),
        Case("a row with a cell too many", "row-shape",
             cell(3, "61").replace(b"\n", b"\n", 1) + b"S1,1,98979-8,60,x,y\n", 721),
        Case("a row with a cell too few", "row-shape", cell(3, "61") + b"S1,1,98979-8\n", 721),
        Case("a line that is not UTF-8", "not-text",
             cell(3, "61") + b"M\xfcller,1,98979-8,60,x\n", 721),
        Case("the header again", "header-again",
             csv_bytes(clean_rows()) + b"patient,time,code,value,unit\n", 721),
        Case("wide table: a word", "value-text",
             csv_bytes(wide_bad, ["patient", "time", "gfr"]), 51, WIDE),
        Case("column missing", "", csv_bytes([r[:4] for r in clean_rows()], ["p", *HEADER[1:4]]),
             refused="no column patient"),
        Case("column twice", "", csv_bytes(clean_rows(), [*HEADER[:4], "time"]), refused="twice"),
        Case("empty file", "", b"", refused="empty"),
        Case("Parquet that is cut off", "", b"PAR1 then nothing", suffix=".parquet",
             refused="cannot be read"),
        Case("FHIR: cut-off JSON", "", fhir(lambda _: None)[:-30], suffix=".json",
             refused="not JSON"),
        Case("FHIR: line that is no JSON", "bad-json",
             fhir(lambda all_: all_.insert(3, "{oops"), lines=True), 4, suffix=".ndjson"),
        Case("FHIR: field of a wrong type", "bad-resource",
             fhir(fields(3, valueQuantity={"value": "many"})), 4, suffix=".json"),
        Case("FHIR: no status", "bad-resource", fhir(fields(3, status=None)), 4, suffix=".json"),
        Case("FHIR: no subject", "unknown-subject", fhir(fields(3, subject=None)), 4,
             suffix=".json"),
        Case("FHIR: no time", "time-missing", fhir(fields(3, effectiveDateTime=None)), 4,
             suffix=".json"),
        Case("FHIR: before birth", "time-before-birth",
             fhir(fields(3, effectiveDateTime="1959-12-31")), 4, suffix=".json"),
        Case("FHIR: no value", "value-missing", fhir(fields(3, valueQuantity=None)), 4,
             suffix=".json"),
        Case("FHIR: value absent with a reason", "absent-data",
             fhir(fields(3, valueQuantity=None,
                        dataAbsentReason={"coding": [{"code": "error"}]})), 4, suffix=".json"),
        Case("FHIR: comparator", "value-censored",
             fhir(fields(3, valueQuantity={**quantity, "comparator": "<"})), 4, suffix=".json"),
        Case("FHIR: entered in error", "status-entered-in-error",
             fhir(fields(3, status="entered-in-error")), 4, suffix=".json"),
        Case("FHIR: unit of another quantity", "unit-not-allowed",
             fhir(fields(3, valueQuantity={**quantity, "code": "kg"})), 4, suffix=".json"),
    ]  # fmt: skip


def swap(rows: Rows, one: int, other: int) -> Rows:
    rows[one - 1], rows[other - 1] = rows[other - 1], rows[one - 1]
    return rows


def mixed_unit(rows: Rows) -> Rows:
    for row in rows:
        if row[2] == SUGAR:
            row[2] = "mysugar"
    rows[103][4] = "mmol/mol"
    return rows


def wrong_unit(rows: Rows) -> Rows:
    for row in rows:
        if row[2] == SUGAR:
            row[2], row[3], row[4] = "glucose", f"{float(row[3]) + 1:g}", "mg/dL"
    return rows


def run_case(case: Case, folder: Path) -> dict:
    path = folder / f"records{case.suffix}"
    path.write_bytes(case.text)
    try:
        _, validation = read_records(path, case.config)
    except DataError as error:
        found = bool(case.refused) and case.refused in str(error)
        return {
            "name": case.name,
            "kind": "refused",
            "found": found,
            "message": str(error)[-200:].replace(f"{folder}/", ""),
        }
    places = [(one.row, one.kind) for one in validation.findings()]
    hits = [row for row, kind in places if kind == case.kind and case.row in (0, row)]
    return {
        "name": case.name,
        "kind": case.kind,
        "found": bool(hits) and not case.refused,
        "beside_it": dict(Counter(kind for _, kind in places if kind != case.kind)),
        "rows_in": validation.rows_in,
        "rows_kept": validation.rows_kept,
    }


def false_alarms() -> dict:
    """Findings in good data that a plain recount does not bear out."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clean.csv"
        path.write_bytes(csv_bytes(clean_rows()))
        clean = read_records(path, InputConfig())[1].summary()
    pbc = InputConfig(
        patient="id", time="year", time_unit="a",
        values={
            "serBilir": ValueColumn(code="bilirubin", unit="mg/dL"),
            "serChol": ValueColumn(code="cholesterol", unit="mg/dL"),
            "albumin": ValueColumn(code="albumin", unit="g/dL"),
            "alkaline": ValueColumn(code="alp", unit="U/L"),
            "SGOT": ValueColumn(code="ast", unit="U/L"),
            "platelets": ValueColumn(code="platelets", unit="10*9/L"),
            "prothrombin": ValueColumn(code="prothrombin time", unit="s"),
        },
        covariates=("drug", "age", "sex"),
        events={"death": EventColumns(time="years", status="status", observed=("dead",),
                                      censored=("alive", "transplanted"))},
    )  # fmt: skip
    _, on_pbc = read_records(LONGITUDINAL / "JM_pbc2.csv", pbc)
    with (LONGITUDINAL / "JM_pbc2.csv").open(encoding="utf-8") as file:
        visits = Counter(row["id"] for row in csv.DictReader(file))
    single = sum(count == 1 for count in visits.values())
    _, on_fhir = read_records(LONGITUDINAL / "synthea_r4", InputConfig())
    repeated = recount(LONGITUDINAL / "synthea_r4")
    return {
        "clean": clean,
        "pbc2": on_pbc.summary(),
        "pbc2_patients_with_one_visit": single,
        "synthea": on_fhir.summary(),
        "synthea_repeats_by_recount": repeated,
        "false_alarms": int(sum(clean["found"].values()))
        + sum(n for kind, n in on_pbc.found.items() if kind != "few-visits")
        + abs(on_pbc.found["few-visits"] - single)
        + sum(n for kind, n in on_fhir.found.items() if kind not in repeated)
        + sum(abs(on_fhir.found[kind] - n) for kind, n in repeated.items()),
    }


def recount(folder: Path) -> dict[str, int]:
    """Rows that repeat a patient, code and time: with the same value, and with others."""
    values: dict[tuple, list[float]] = {}
    for path in sorted(folder.glob("*.json")):
        for entry in json.loads(path.read_text())["entry"]:
            one = entry["resource"]
            if one["resourceType"] != "Observation":
                continue
            for part in [one, *one.get("component", [])]:
                if "valueQuantity" in part:
                    key = (one["subject"]["reference"], one["effectiveDateTime"],
                           part["code"]["coding"][0]["code"])  # fmt: skip
                    values.setdefault(key, []).append(part["valueQuantity"]["value"])
    repeats = [one for one in values.values() if len(one) > 1]
    return {
        "duplicate": sum(len(one) - 1 for one in repeats if len(set(one)) == 1),
        "conflict": sum(len(one) for one in repeats if len(set(one)) > 1),
    }


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        results = [run_case(case, Path(folder)) for case in cases()]
    for one in results:
        print(f"{'found ' if one['found'] else 'MISSED'}  {one['name']} ({one['kind']})")
        if not one["found"]:
            print("       ", one)
    alarms = false_alarms()
    report = {
        "command": "python benchmarks/forecast_bad_data.py",
        "date": date.today().isoformat(),
        "provenance": collect(seed=9),
        "cases": len(results),
        "found": sum(one["found"] for one in results),
        "kinds": len({one["kind"] for one in results}),
        "false_alarms": alarms,
        "results": results,
    }
    RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"{report['found']} of {report['cases']} found, {alarms['false_alarms']} false alarms")


if __name__ == "__main__":
    main()

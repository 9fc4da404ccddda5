from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from medimind.config.forecast import EventColumns, InputConfig, ValueColumn
from medimind.errors import DataError
from medimind.forecasting.records.findings import Validation
from medimind.forecasting.records.read import read_records, stream_records, total
from medimind.forecasting.records.table import Records

UNIT = "mL/min/{1.73_m2}"
Read = Callable[..., tuple[Records, Validation]]
DATA = Path(__file__).resolve().parents[5] / "shared" / "data" / "longitudinal"


@pytest.fixture
def read(tmp_path: Path) -> Read:
    def from_rows(*rows: str, config: InputConfig | None = None, strict: bool = False) -> object:
        path = tmp_path / "records.csv"
        path.write_text("\n".join(["patient,time,code,value,unit", *rows]) + "\n")
        return read_records(path, config or InputConfig(), strict=strict)

    return from_rows  # type: ignore[return-value]


GOOD = [f"A,{day},98979-8,{value},{UNIT}" for day, value in ((0, 70), (90, 69), (180, 66))]


@pytest.mark.parametrize(
    ("row", "kind"),
    [
        ("A,200,98979-8,<15," + UNIT, "value-censored"),
        ('A,200,98979-8,"61,5",' + UNIT, "value-comma"),
        ("A,200,98979-8,NaN," + UNIT, "value-not-finite"),
        ("A,200,98979-8,700," + UNIT, "value-physiology"),
        ("A,200,98979-8,6.6," + UNIT, "value-tenfold"),
        ("A,200,98979-8,66,mg/dL", "unit-not-allowed"),
        ("A,200,98979-8,66,furlongs", "unit-unknown"),
        ("A,200,98979-8,66,", "unit-missing"),
        ("A,200,98979-7,66," + UNIT, "code-check-digit"),
        ("A,soon,98979-8,66," + UNIT, "time-unreadable"),
        (",200,98979-8,66," + UNIT, "patient-missing"),
        ("A,180,98979-8,66," + UNIT, "duplicate"),
        ("A,200,98979-8,66", "row-shape"),
    ],
)
def test_a_bad_row_is_found_left_out_and_counted(read: Read, row: str, kind: str) -> None:
    records, validation = read(*GOOD, row)
    assert validation.found[kind] == 1
    (finding,) = [one for one in validation.findings() if one.kind == kind]
    assert finding.row == 4
    assert finding.as_row()["fix"]
    assert (validation.rows_in, validation.rows_kept, records.num_rows) == (4, 3, 3)
    with pytest.raises(DataError, match=f"row 4, .*{finding.as_row()['fix'][:12]}"):
        read(*GOOD, row, strict=True)


def test_both_of_two_values_at_one_time_are_left_out(read: Read) -> None:
    records, validation = read(*GOOD, f"A,180,98979-8,61,{UNIT}")
    assert validation.left_out == {"conflict": 2}
    assert list(records.value) == [70, 69]


def test_units_become_one(read: Read) -> None:
    records, _ = read(
        "A,0,creatinine,88.4,umol/L", "A,9,creatinine,1.1,mg/dL", "A,20,hba1c,48,mmol/mol",
        "A,30,glucose,1.2,g/L", "A,40,local,2,mg", "A,50,local,3,mg", "A,60,local,0.004,g",
    )  # fmt: skip
    by_code = {code: list(records.series(code).value) for code in records.codes}
    assert by_code["2160-0"] == pytest.approx([1.0, 1.1], abs=1e-4)
    assert by_code["4548-4"] == pytest.approx([6.54], abs=0.01)
    assert by_code["2339-0"] == pytest.approx([120])
    assert by_code["local"] == pytest.approx([2, 3, 4])


def test_a_slow_change_over_a_decade_is_no_slip(read: Read) -> None:
    values = (426, 300, 200, 115, 80, 60, 50, 44, 43, 42, 41, 40)
    rows = [f"A,{90 * i},platelets,{value},10*9/L" for i, value in enumerate(values)]
    assert not read(*rows)[1].found


def test_rows_of_a_wide_table_with_facts_and_events(tmp_path: Path) -> None:
    path = tmp_path / "wide.csv"
    path.write_text(
        "id,day,gfr,a1c,sex,end,died\n1,0,70,,f,400,1\n1,90,68,6.1,f,400,1\n2,0,,5.5,m,300,0\n"
    )
    config = InputConfig(
        patient="id",
        time="day",
        values={
            "gfr": ValueColumn(code="egfr", unit=UNIT),
            "a1c": ValueColumn(code="hba1c", unit="%"),
        },
        covariates=("sex",),
        events={"death": EventColumns(time="end", status="died")},
    )
    records, validation = read_records(path, config)
    assert records.num_rows == validation.rows_in == 4
    assert list(records.covariates["sex"]) == ["f", "m"]
    assert list(records.events["death"].time_days) == [400, 300]
    assert list(records.events["death"].is_observed) == [True, False]


def test_meds_takes_numbers_and_passes_over_the_rest(tmp_path: Path) -> None:
    path = tmp_path / "data.parquet"
    start = np.datetime64("2020-01-01T00:00", "us")
    times = [None, start, start + np.timedelta64(30, "D"), start]
    table = {
        "subject_id": pa.array([7, 7, 7, 7]),
        "time": pa.array(times, pa.timestamp("us")),
        "code": ["GENDER//F", "4548-4", "4548-4", "ICD10//E11"],
        "numeric_value": pa.array([None, 7.0, 7.2, None], pa.float32()),
    }
    pq.write_table(pa.table(table), path)
    records, validation = read_records(path, InputConfig(units={"4548-4": "%"}))
    assert validation.found == {}
    assert list(records.time_days) == [0, 30]
    assert records.value == pytest.approx([7.0, 7.2])
    assert records.origin_day is not None
    assert records.origin_day[0] == (start - np.datetime64("1970-01-01")) / np.timedelta64(1, "D")


def test_fhir_lines_with_a_panel_and_a_birthday(tmp_path: Path) -> None:
    def observation(day: str, **more: object) -> dict[str, object]:
        return {
            "resourceType": "Observation",
            "status": "final",
            "code": {"coding": [{"system": "http://loinc.org", "code": "85354-9"}]},
            "subject": {"reference": "Patient/p"},
            "effectiveDateTime": day,
            **more,
        }

    def part(code: str, value: float) -> dict[str, object]:
        return {
            "code": {"coding": [{"system": "http://loinc.org", "code": code}]},
            "valueQuantity": {"value": value, "code": "mm[Hg]"},
        }

    resources = [
        {"resourceType": "Patient", "id": "p", "birthDate": "1970-01-01", "gender": "male"},
        observation("2020-01-01", component=[part("8480-6", 120), part("8462-4", 80)]),
        observation("2020-01-11T12:00:00Z", component=[part("8480-6", 130), part("8462-4", 85)]),
    ]
    path = tmp_path / "lines.ndjson"
    path.write_text("\n".join(json.dumps(one) for one in resources) + "\n{broken\n")
    records, validation = read_records(path, InputConfig())
    assert validation.left_out == {"bad-json": 1}
    assert list(records.series("8480-6").time_days) == [0, 10.5]
    assert records.covariates["age"][0] == pytest.approx(50.0, abs=0.01)
    assert list(records.covariates["sex"]) == ["male"]


@pytest.mark.parametrize("is_sorted", [True, False])
def test_streamed_parts_hold_whole_patients_and_the_same_rows(
    tmp_path: Path, is_sorted: bool
) -> None:
    draw = np.random.default_rng(0)
    patient = np.repeat([f"P{i:03d}" for i in range(40)], 6)
    time = np.tile(np.arange(6.0) * 30, 40)
    order = np.arange(240) if is_sorted else draw.permutation(240)
    table = {"patient": patient, "time": time, "code": np.full(240, "4548-4"),
             "value": np.round(draw.uniform(5, 9, 240), 2), "unit": np.full(240, "%")}  # fmt: skip
    path = tmp_path / "t.parquet"
    pq.write_table(pa.table({name: column[order] for name, column in table.items()}), path)
    whole, _ = read_records(path, InputConfig())
    parts = list(stream_records(path, InputConfig(), rows_a_part=50))
    assert len(parts) > 3
    names = np.concatenate([records.patients for records, _ in parts])
    assert len(names) == len(set(names)) == 40
    assert all(np.all(np.diff(records.offsets) == 6) for records, _ in parts)
    joined = {(p, t): v for records, _ in parts
              for p, t, v in zip(records.patient, records.time_days, records.value)}  # fmt: skip
    assert joined == dict(zip(zip(whole.patient, whole.time_days), whole.value))
    summary = total(stream_records(path, InputConfig(), rows_a_part=50))
    assert summary.rows_in == summary.rows_kept == 240


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["A", "B", "", "C "]),
            st.sampled_from(["0", "1", "2", "x", "", "inf"]),
            st.sampled_from(["4548-4", "98979-8", "local", ""]),
            st.sampled_from(["6", "60", "6000", "-9", "<5", "1,5", "nan", ""]),
            st.sampled_from(["%", UNIT, "mg", ""]),
        ),
        max_size=25,
    )
)
def test_counts_always_add_up(tmp_path_factory: pytest.TempPathFactory, rows: list) -> None:
    path = tmp_path_factory.mktemp("any") / "t.parquet"
    columns = list(zip(*rows)) or [()] * 5
    names = ("patient", "time", "code", "value", "unit")
    pq.write_table(pa.table({n: pa.array(c, pa.string()) for n, c in zip(names, columns)}), path)
    records, validation = read_records(path, InputConfig())
    assert validation.rows_in == len(rows) == records.num_rows + validation.left_out.total()
    assert len(list(validation.findings())) == validation.found.total()
    assert np.isfinite(records.value).all()


def test_nothing_false_is_found_in_published_records() -> None:
    if not DATA.exists():
        pytest.skip("needs ../shared/data/longitudinal")
    _, validation = read_records(DATA / "synthea_r4", InputConfig())
    # These rows do repeat a patient, code and time (benchmarks/forecast_bad_data.py recounts them).
    assert validation.found == {"duplicate": 24, "conflict": 10}


def test_thousands_of_codes_are_told_apart_in_one_pass(
    read: Read, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_at: list[int] = []
    flatnonzero = np.flatnonzero

    def counted(marked: np.ndarray) -> np.ndarray:
        looked_at.append(np.size(marked))
        return flatnonzero(marked)

    num_codes = 600
    lines = [
        f"p{visit},{visit},c{code},{(code * visit) % 89 + code / 1000 + 1.5:.4f},mmol/L"
        for code in range(num_codes)
        for visit in range(1, 6)
    ]
    lines += [line.replace(",c7,", ",copy,") for line in lines if ",c7," in line]
    monkeypatch.setattr(np, "flatnonzero", counted)
    records, validation = read(*lines)
    assert (validation.found["codes-identical"], len(records.codes)) == (5, num_codes)
    assert validation.rows_in == len(lines) == records.num_rows + validation.left_out.total()
    assert records.num_visits.tolist() == np.diff(records.visits().offsets).tolist()
    # No step looks at every row for every code.
    assert sum(looked_at) < 100 * len(lines)

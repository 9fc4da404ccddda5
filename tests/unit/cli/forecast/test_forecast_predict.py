from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from medimind.cli.main import main
from medimind.forecasting.outputs import file_name

NEW = """\
patient,time,code,value,unit
A 1,0,98979-8,70,mL/min/{1.73_m2}
A 1,180,98979-8,66,mL/min/{1.73_m2}
A 1,365,98979-8,61,mL/min/{1.73_m2}
B,0,98979-8,95,mL/min/{1.73_m2}
"""


@pytest.fixture
def new(tmp_path: Path) -> Path:
    path = tmp_path / "new.csv"
    path.write_text(NEW)
    return path


def test_one_patient_is_printed_with_intervals_risk_and_evidence(fitted, new, capsys):
    assert main(["forecast", "predict", str(fitted), str(new), "--patient", "A 1"]) == 0
    document = json.loads(capsys.readouterr().out)
    gfr, sugar = document["codes"]
    assert gfr["name"] == "eGFR"
    assert gfr["evidence"]["is_sufficient"]
    assert [row["value"] for row in gfr["history"]] == [70, 66, 61]
    for row in gfr["forecasts"]:
        low, high = row["intervals"]["90"]
        assert low < row["value"] < high
    assert sugar["evidence"]["reasons"] == ["never measured: this is the population"]
    (risk,) = document["risks"]
    assert risk["state"] == "not beyond the line"
    by = [row["by_percent"] for row in risk["horizons"]]
    assert by == sorted(by)


def test_all_patients_go_to_parquet_and_documents(fitted, new, tmp_path):
    out = tmp_path / "out"
    assert main(["forecast", "predict", str(fitted), str(new), "--out", str(out),
                 "--horizon", "90", "--horizon", "400"]) == 0  # fmt: skip
    table = pq.read_table(out / "forecasts.parquet").to_pylist()
    assert len(table) == 2 * 2 * 2
    assert {row["horizon_days"] for row in table} == {90, 400}
    assert len(list((out / "patients").iterdir())) == 2
    document = json.loads((out / "patients" / "B.json").read_text())
    assert not document["codes"][0]["evidence"]["is_sufficient"]


def test_prediction_imports_neither_torch_nor_what_fits(fitted, new):
    code = (
        "import sys; from medimind.cli.main import main; "
        f"main(['forecast', 'predict', {str(fitted)!r}, {str(new)!r}, '--patient', 'B']); "
        "heavy = {'torch', 'sklearn', 'statsmodels', 'gpboost', 'lifelines'}; "
        "assert not heavy & set(sys.modules), heavy & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{model}", "{new}"], "give --out FOLDER, or --patient NAME"),
        (["{model}", "{new}", "--patient", "C"], "there is no patient 'C'"),
        (["nowhere", "{new}", "--patient", "B"], "medimind forecast fit"),
        (["{model}", "nowhere.csv", "--patient", "B"], "nowhere.csv"),
    ],
)
def test_mistakes_get_a_clear_line(arguments, message, fitted, new, capsys):
    filled = [one.format(model=fitted, new=new) for one in arguments]
    assert main(["forecast", "predict", *filled]) in (1, 2)
    error = capsys.readouterr().err
    assert message in error
    assert "Traceback" not in error


def test_files_of_patients_are_distinct_where_case_makes_no_difference():
    patients = ["A17", "a17", "B 2", "B_2", "b_2", "CON", "con", "COM1", "日本", "日木", ""]
    names = [file_name(patient) for patient in patients]
    assert names[0] == "A17"
    assert len({name.upper() for name in names}) == len(patients)
    reserved = {"CON", "PRN", "AUX", "NUL", "COM1", ""}
    assert all(name.isascii() and name.upper() not in reserved for name in names)

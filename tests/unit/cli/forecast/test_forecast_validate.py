from __future__ import annotations

import csv

from medimind.cli.main import main


def test_findings_are_printed_and_written(tmp_path, capsys):
    path, out = tmp_path / "t.csv", tmp_path / "findings.csv"
    path.write_text(
        "patient,time,code,value,unit\nA,0,hba1c,6.1,%\nA,90,hba1c,<5,%\nA,120,hba1c,6.2,mg\n"
    )
    assert main(["forecast", "validate", str(path), "--out", str(out)]) == 0
    assert "3 rows of 1 patients: 1 kept, 2 left out" in capsys.readouterr().out
    rows = list(csv.DictReader(out.read_text().splitlines()))
    assert [(row["kind"], row["row"]) for row in rows][:2] == [
        ("value-censored", "2"), ("unit-not-allowed", "3"),
    ]  # fmt: skip
    assert main(["forecast", "validate", str(path), "--strict"]) == 1
    assert "row 2, patient 'A', code 'hba1c'" in capsys.readouterr().err


def test_a_mapping_with_errors_is_told_with_lines(tmp_path, capsys):
    path = tmp_path / "map.yaml"
    path.write_text("kind: wide\ntimes: day\n")
    (tmp_path / "t.csv").write_text("a\n1\n")
    arguments = ["forecast", "validate", str(tmp_path / "t.csv"), "--input", str(path)]
    assert main(arguments) == 2
    assert "map.yaml:2: unknown key 'times'" in capsys.readouterr().err

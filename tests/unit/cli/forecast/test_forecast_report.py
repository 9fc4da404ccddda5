from __future__ import annotations

import json
import re

import pyarrow.parquet as pq

from medimind.cli.main import main


def test_pages_hold_the_fan_chart_the_account_and_the_mark(fitted, cohort_file, tmp_path, capsys):
    new, out = tmp_path / "new.csv", tmp_path / "out"
    new.write_text(
        "patient,time,code,value,unit\n"
        "A<b>,0,98979-8,70,mL/min/{1.73_m2}\nA<b>,180,98979-8,64,mL/min/{1.73_m2}\n"
        "A<b>,200,98979-8,<5,mL/min/{1.73_m2}\n"
    )
    assert main(["forecast", "predict", str(fitted), str(new), "--out", str(out)]) == 0
    assert main(["forecast", "report", str(out)]) == 0
    (page,) = (out / "patients").glob("*.html")
    text = page.read_text()
    assert text.count("<svg") == 2
    assert "A&lt;b&gt;" in text
    assert "A<b>" not in text
    assert "Not a medical device" in text
    assert "Insufficient evidence" in text
    assert "skill" in text
    assert 'src="bokeh.min.js"' in text
    assert not re.findall(r'(?:src|href)="(?!bokeh|#)', text.split("<svg")[0])
    assert (out / "patients" / "bokeh.min.js").stat().st_size > 100_000
    report = (out / "report.html").read_text()
    assert "value-censored" in report
    assert json.loads((out / "validation.json").read_text())["left_out"] == {"value-censored": 1}
    assert page.name in report


def test_a_folder_without_forecasts_is_told_what_to_do(tmp_path, capsys):
    assert main(["forecast", "report", str(tmp_path)]) == 1
    assert "medimind forecast predict" in capsys.readouterr().err


def test_documents_stop_where_asked_and_tables_do_not(fitted, cohort_file, tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["forecast", "predict", str(fitted), str(cohort_file), "--out", str(out),
                 "--max-documents", "5"]) == 0  # fmt: skip
    assert len(list((out / "patients").iterdir())) == 5
    assert "documents of the first 5" in capsys.readouterr().out
    table = pq.read_table(out / "forecasts.parquet")
    assert len(set(table.column("patient").to_pylist())) == 120

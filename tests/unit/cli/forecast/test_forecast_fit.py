from __future__ import annotations

import json
from pathlib import Path

from medimind.cli.main import main


def test_settings_with_errors_are_told_all_at_once(cohort_file, tmp_path: Path, capsys):
    settings = tmp_path / "settings.yaml"
    settings.write_text("num_folds: 1\nexpert: [linear]\n")
    arguments = ["forecast", "fit", str(cohort_file), "--out", str(tmp_path / "m")]
    assert main([*arguments, "--config", str(settings)]) == 2
    error = capsys.readouterr().err
    assert "settings.yaml:1: 'num_folds'" in error
    assert "settings.yaml:2: 'expert'" in error
    assert not (tmp_path / "m").exists()


def test_backtest_shows_skill_and_coverage(cohort_file, settings_file, tmp_path: Path, capsys):
    out = tmp_path / "backtest.json"
    assert main(["forecast", "backtest", str(cohort_file), "--config", str(settings_file),
                 "--folds", "2", "--out", str(out)]) == 0  # fmt: skip
    assert "HbA1c" in capsys.readouterr().out
    rows = json.loads(out.read_text())
    assert {(row["code"], row["steps"]) for row in rows} == {
        (code, steps) for code in ("98979-8", "4548-4") for steps in (1, 2, 4)
    }
    for row in rows:
        assert 0.75 < row["coverage_90"] <= 1
        assert row["coverage_50"] <= row["coverage_80"] <= row["coverage_90"]

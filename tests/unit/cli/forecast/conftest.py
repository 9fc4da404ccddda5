"""A fitted forecaster, made once."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from medimind.cli.main import main
from medimind.forecasting.simulate import simulate_cohort

SETTINGS = """\
experts: [last_value, patient_mean, population_slope, local_trend, linear]
trees: {num_trees: 15}
num_folds: 3
lines:
  - {name: "eGFR < 60", code: 98979-8, value: 60, unit: "mL/min/{1.73_m2}", confirm_days: 90}
"""


@pytest.fixture(scope="session")
def cohort_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    records = simulate_cohort(120, seed=4).records
    path = tmp_path_factory.mktemp("forecast") / "cohort.parquet"
    columns = {
        "patient": records.patient,
        "time": records.time_days,
        "code": records.code,
        "value": records.value,
        "unit": records.unit,
    }
    pq.write_table(pa.table(columns), path)
    return path


@pytest.fixture(scope="session")
def settings_file(cohort_file: Path) -> Path:
    path = cohort_file.parent / "settings.yaml"
    path.write_text(SETTINGS)
    return path


@pytest.fixture(scope="session")
def fitted(cohort_file: Path, settings_file: Path) -> Path:
    out = cohort_file.parent / "model"
    assert main(["forecast", "fit", str(cohort_file), "--out", str(out),
                 "--config", str(settings_file)]) == 0  # fmt: skip
    return out

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from medimind.config.forecast import InputConfig
from medimind.config.forecast_models import ForecastConfig, TreesConfig
from medimind.forecasting.cohort import predict_cohort
from medimind.forecasting.fit import fit_forecaster
from medimind.forecasting.predict import predict
from medimind.forecasting.simulate import simulate_cohort, write_long_table


def test_a_cohort_in_parts_and_threads_is_forecast_as_in_one_piece(tmp_path: Path) -> None:
    config = ForecastConfig(
        experts=("population_slope", "linear"), trees=TreesConfig(num_trees=10), num_folds=2
    )
    forecaster = fit_forecaster(simulate_cohort(150, seed=1).records, config)
    # A long table has measurements alone.
    records = dataclasses.replace(simulate_cohort(60, seed=2).records, covariates={}, events={})
    write_long_table(records, tmp_path / "t.parquet")
    seen: list[tuple[int, int]] = []
    result = predict_cohort(
        forecaster, tmp_path / "t.parquet", tmp_path / "out", config=InputConfig(),
        rows_a_part=150, max_documents=0,
        on_progress=lambda _, done, all_: seen.append((done, all_)),
    )  # fmt: skip
    assert (result.num_patients, result.num_documents) == (60, 0)
    assert result.validation.rows_kept == records.num_rows
    assert seen[-1] == (records.num_rows, records.num_rows)
    assert len(seen) > 4
    table = pq.read_table(tmp_path / "out" / "forecasts.parquet").to_pandas()
    whole, risks = predict(forecaster, records)
    names = records.patients[whole.patient_index]
    codes = np.array(whole.codes, dtype=object)[whole.code_index]
    keys = ["patient", "code", "horizon_days"]
    expected = dict(zip(zip(names, codes, whole.horizon_days), whole.value))
    got = dict(zip(zip(*(table[key] for key in keys)), table["forecast"]))
    assert got.keys() == expected.keys()
    assert np.allclose([got[key] for key in expected], list(expected.values()), rtol=1e-9)
    assert pq.read_table(tmp_path / "out" / "risks.parquet").num_rows == len(risks.by)

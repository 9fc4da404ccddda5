from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from medimind.config.forecast_models import ForecastConfig, TreesConfig
from medimind.errors import DataError
from medimind.forecasting.fit import fit_code, fit_forecaster
from medimind.forecasting.forecast import FEW_VISITS, NO_MEASUREMENT, SUFFICIENT, TOO_FAR
from medimind.forecasting.forecaster import Forecaster
from medimind.forecasting.predict import predict
from medimind.forecasting.records.table import Records
from medimind.forecasting.store import load_forecaster, save_forecaster

Cohort = Callable[..., Records]

CONFIG = ForecastConfig(trees=TreesConfig(num_trees=20), num_folds=3)


@pytest.fixture(scope="module")
def forecaster(cohort: Cohort) -> Forecaster:
    return fit_forecaster(cohort(120), CONFIG)


def test_the_chosen_model_is_never_worse_than_a_baseline_on_unseen_patients(cohort: Cohort) -> None:
    for seed, code in ((0, "marker"), (1, "tail")):
        model, _ = fit_code(cohort(60, seed=seed), code, CONFIG)
        assert model.errors["chosen"] <= min(
            model.errors[name] for name in ("last_value", "patient_mean", "population_slope")
        )


def test_forecasts_are_better_and_intervals_cover_on_new_patients(
    cohort: Cohort, forecaster: Forecaster
) -> None:
    fresh = cohort(300, seed=5)
    last = fresh.offsets[1:] - 1
    # Both codes are measured at each visit: leave the last visit out and forecast it.
    is_last = fresh.time_days == fresh.time_days[last][fresh.patient_index]
    past, truth = fresh.where(~is_last), fresh.where(is_last).series("marker")
    series = past.series("marker")
    horizon = truth.time_days - series.time_days[series.offsets[1:] - 1]
    near = np.flatnonzero(horizon < 0.5 * 365.25)
    forecasts, _ = predict(forecaster, past, horizons_days=(float(np.median(horizon[near])),))
    value = forecasts.value[: fresh.num_patients][near]
    error = np.abs(value - truth.value[near]).mean()
    last_value = np.abs(series.value[series.offsets[1:] - 1] - truth.value)[near].mean()
    assert error < last_value
    low, high = (
        ends[: fresh.num_patients][near, 2] for ends in (forecasts.low_KL, forecasts.high_KL)
    )
    covered = np.mean((low <= truth.value[near]) & (truth.value[near] <= high))
    assert 0.82 < covered < 0.98


def test_intervals_are_nested_and_hold_the_forecast(cohort: Cohort, forecaster: Forecaster) -> None:
    forecasts, _ = predict(forecaster, cohort(50, seed=2))
    assert np.all(np.diff(forecasts.low_KL, axis=1) <= 0)
    assert np.all(np.diff(forecasts.high_KL, axis=1) >= 0)
    assert np.all(forecasts.low_KL[:, 0] <= forecasts.value)
    assert np.all(forecasts.value <= forecasts.high_KL[:, 0])


def test_thin_evidence_is_marked(cohort: Cohort, forecaster: Forecaster) -> None:
    records = cohort(10)
    first = np.zeros(records.num_rows, dtype=bool)
    first[records.offsets[1]] = True  # one measurement of patient 1's marker
    keep = (records.patient_index > 1) | first
    forecasts, _ = predict(forecaster, records.where(keep), horizons_days=(180.0, 36500.0))
    by_patient = forecasts.evidence[:20].reshape(10, 2)
    assert list(by_patient[:, 0]) == [NO_MEASUREMENT, FEW_VISITS, *[SUFFICIENT] * 8]
    assert set(by_patient[1:, 1]) == {TOO_FAR}
    assert np.isfinite(forecasts.value).all()


def test_a_saved_forecaster_forecasts_the_same(
    cohort: Cohort, forecaster: Forecaster, tmp_path: Path
) -> None:
    save_forecaster(forecaster, tmp_path / "model")
    again = load_forecaster(tmp_path / "model")
    records = cohort(20, seed=3)
    one, other = predict(forecaster, records)[0], predict(again, records)[0]
    for name in ("value", "low_KL", "high_KL", "evidence"):
        assert np.array_equal(getattr(one, name), getattr(other, name))
    assert again.codes["marker"].errors == forecaster.codes["marker"].errors


def test_damage_is_found(forecaster: Forecaster, tmp_path: Path) -> None:
    save_forecaster(forecaster, tmp_path / "model")
    path = tmp_path / "model" / "model.json"
    content = json.loads(path.read_text())
    content["forecaster"]["min_visits"] = 7
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=r"model.json was changed"):
        load_forecaster(tmp_path / "model")
    with pytest.raises(DataError, match="medimind forecast fit"):
        load_forecaster(tmp_path / "nothing")


def test_too_few_patients_are_refused_with_the_reason(cohort: Cohort) -> None:
    with pytest.raises(DataError, match=r"marker: \d+ patients with two measurements or more"):
        fit_forecaster(cohort(10), CONFIG)

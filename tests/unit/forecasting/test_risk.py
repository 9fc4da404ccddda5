from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from medimind.config.forecast_models import ForecastConfig, LineConfig, TreesConfig
from medimind.errors import ConfigError
from medimind.forecasting.conformal import PERCENTILES, Calibration
from medimind.forecasting.fit import fit_code, fit_forecaster
from medimind.forecasting.forecast import CONFIRMED
from medimind.forecasting.predict import predict
from medimind.forecasting.records.table import Records
from medimind.forecasting.risk import (
    Line,
    LineModel,
    RiskCalibration,
    beyond_since,
    crossing_risk,
    draw_courses,
    percentile_of_line,
)
from medimind.forecasting.risk_fit import brier, calibration_error, fit_calibration
from medimind.forecasting.risk_rows import RiskRows, rows_at
from medimind.forecasting.scale import Scale

Cohort = Callable[..., Records]
NOTHING = RiskCalibration(None, 0, 0, {})


def make_line(side: str = "below", confirm_days: float = 90.0) -> Line:
    return Line("line", "marker", 60.0, "mL/min", side, confirm_days)


@pytest.mark.parametrize(("side", "expected"), [("below", 1), ("at_or_above", -1)])
def test_a_crossing_counts_when_a_value_ninety_days_on_confirms_it(
    side: str, expected: int
) -> None:
    below = np.array([70.0, 59.0, 61.0, 59.0, 58.0, 55.0, 61.0, 50.0])
    value = 60 + expected * (below - 60) - (0.0 if expected == 1 else -1e-9)
    time = np.array([0.0, 100, 200, 300, 380, 390, 500, 0])
    offsets = np.array([0, 7, 8])
    days, crossed = beyond_since(make_line(side), offsets, time, value)
    np.testing.assert_array_equal(days, [np.nan, 0, np.nan, 0, 80, 90, np.nan, 0])
    # At day 390 for good; what comes after changes nothing. The other patient has one value only.
    assert crossed.tolist() == [False] * 5 + [True, True, False]


def test_the_line_has_its_place_in_the_predictive_distribution() -> None:
    draw = np.random.default_rng(0)
    score = np.sort(draw.standard_t(5, 100_000))
    calibration = Calibration(
        log_horizon=np.zeros(1),
        longest_years=1.0,
        table_BQ=np.percentile(score, PERCENTILES)[None],
        num_patients=1,
        num_pairs=1,
    )
    point = np.linspace(40, 80, 81)
    found = percentile_of_line(
        make_line(), Scale(), calibration, point, np.full(81, 4.0), np.ones(81)
    )
    expected = np.searchsorted(score, (60 - point) / 4.0) / len(score)
    np.testing.assert_allclose(found, expected, atol=0.006)
    assert np.all(np.diff(found) < 0)


def test_courses_are_uniform_at_each_time_and_go_together() -> None:
    grid = np.array([0.25, 0.5, 3.0])
    courses = draw_courses(grid, alike=0.9, reach_years=1.0, num_courses=2000, seed=0)
    np.testing.assert_allclose(np.sort(courses[:, 0]), (np.arange(2000) + 0.5) / 2000)
    near = np.corrcoef(courses[:, 0], courses[:, 1])[0, 1]
    far = np.corrcoef(courses[:, 0], courses[:, 2])[0, 1]
    assert near == pytest.approx(0.9 * np.exp(-0.25), abs=0.05)
    assert far < 0.2


def test_risk_by_a_horizon_is_counted_as_written() -> None:
    grid = np.array([0.25, 0.5, 1.0])
    course = draw_courses(grid, alike=0.5, reach_years=1.0, num_courses=500, seed=0)
    model = LineModel(make_line(), grid, course, NOTHING, NOTHING)
    below = np.array([[0.3, 0.5, 0.2], [0.9, 0.9, 0.9]])
    begun = np.array([np.nan, 30.0])
    found = crossing_risk(model, below, grid, begun)
    for patient in range(2):
        for horizon in range(3):
            crossed = 0
            for path in course:
                since = None if np.isnan(begun[patient]) else -begun[patient]
                hit = False
                for index in range(horizon + 1):
                    time = grid[index] * 365.25
                    if path[index] >= below[patient, index]:
                        since = None
                    elif since is None:
                        since = time
                    hit |= since is not None and time - since >= 90
                crossed += hit
            assert found[patient, horizon] == pytest.approx(crossed / 500, abs=0.003)


def test_without_confirmation_one_value_is_enough() -> None:
    grid = np.array([0.5, 1.0])
    course = draw_courses(grid, alike=0.0, reach_years=1.0, num_courses=4000, seed=0)
    model = LineModel(make_line(confirm_days=0), grid, course, NOTHING, NOTHING)
    found = crossing_risk(model, np.array([[0.3, 0.4]]), grid, np.array([np.nan]))
    np.testing.assert_allclose(found, [[0.3, 1 - 0.7 * 0.6]], atol=0.02)


@pytest.mark.parametrize("simulation_knows", [True, False])
def test_a_hundred_patients_tell_how_far_to_trust_the_simulation(*, simulation_knows: bool) -> None:
    draw = np.random.default_rng(0)

    def rows(num_patients: int) -> RiskRows:
        patient = np.repeat(np.arange(num_patients), 6)
        score, noise = draw.normal(0, 1.5, (2, len(patient)))
        truth = 1 / (1 + np.exp(-score))
        return RiskRows(
            risk=truth if simulation_knows else 1 / (1 + np.exp(-noise)),
            distance=0.2 * noise if simulation_knows else -score,
            horizon=np.tile([0.5, 1.0, 2.0], 2 * num_patients),
            happened=draw.random(len(patient)) < truth,
            fold=patient % 5,
            patient=patient,
            origin=np.arange(len(patient)),
        )

    fitted, fresh = fit_calibration(rows(100)), rows(5000)
    risk = fitted.apply(fresh.risk, fresh.distance, fresh.horizon)
    truth = fresh.risk if simulation_knows else 1 / (1 + np.exp(fresh.distance))
    assert brier(risk, fresh.happened) < brier(truth, fresh.happened) + 0.02
    assert calibration_error(risk, fresh.happened) < 0.12
    alone = float(fresh.happened.mean())
    assert brier(np.full(len(risk), alone), fresh.happened) > brier(risk, fresh.happened) + 0.04
    assert fitted.measures["brier"] < 0.25


@pytest.mark.parametrize("side", ["below", "at_or_above"])
def test_a_value_on_the_line_is_not_below_it(cohort: Cohort, side: str) -> None:
    records = cohort(60)
    # On a logarithm's scale and back, many values differ in their last digit.
    records = dataclasses.replace(records, value=np.maximum(np.round(records.value, 1), 0.1))
    config = ForecastConfig(experts=("last_value", "patient_mean"), trees=None, num_folds=2)
    model, held = fit_code(records, "tail", config)
    value = records.series("tail").value
    wrong = 0
    for line_value in np.unique(value):
        line = Line("line", "tail", float(line_value), "mg/dL", side, 0.0)
        bare = LineModel(line, np.array([1.0]), np.array([[0.5]]), NOTHING, NOTHING)
        expected = line.is_beyond(value[held.target])
        wrong += int(np.sum(rows_at(bare, model, held).happened != expected))
    assert wrong == 0


def test_risks_on_unseen_patients_are_calibrated(cohort: Cohort) -> None:
    line = LineConfig(name="marker < 45", code="marker", value=45, unit="mmol/L", confirm_days=90)
    config = ForecastConfig(
        experts=("last_value", "patient_mean", "mixed_effects_process"),
        trees=TreesConfig(num_trees=10),
        num_folds=3,
        horizons_days=(365.0, 730.0),
        lines=(line,),
    )
    forecaster = fit_forecaster(cohort(300, num_visits=8), config)
    model = forecaster.lines[0]
    assert model.by.measures["brier"] <= model.by.measures["brier_last_value"] + 0.002
    fresh = cohort(400, num_visits=8, seed=9)
    origin_time = 365.25 * 1.5
    past = fresh.where(fresh.time_days <= origin_time)
    _, risks = predict(forecaster, past)
    by = risks.by.reshape(400, 2)
    assert np.nanmin(by) >= 0
    assert np.nanmax(by) <= 1
    known = ~np.isnan(by).any(axis=1)
    assert np.all(np.diff(by[known], axis=1) >= 0)
    crossed_now = risks.state.reshape(400, 2)[:, 0] == CONFIRMED
    assert np.isnan(by[crossed_now]).all()
    series = fresh.series("marker")
    days, crossed = beyond_since(model.line, series.offsets, series.time_days, series.value)
    assert days.shape == crossed.shape
    end = np.array([series.time_days[series.offsets[1:] - 1]]).ravel()
    last = np.array([past.time_days[past.offsets[1:] - 1]]).ravel()
    followed = known & (end >= last + 365) & (np.diff(past.offsets) > 0)
    happened = np.array(
        [
            crossed[series.offsets[i] : series.offsets[i + 1]][
                series.time_days[series.offsets[i] : series.offsets[i + 1]] <= last[i] + 365
            ].any()
            for i in range(400)
        ]
    )
    assert abs(by[followed, 0].mean() - happened[followed].mean()) < 0.06
    assert calibration_error(by[followed, 0], happened[followed], num_bins=4) < 0.1


def test_a_line_in_another_unit_is_refused(cohort: Cohort) -> None:
    line = LineConfig(name="marker < 45", code="marker", value=45, unit="mg/dL")
    config = ForecastConfig(experts=("population_slope",), trees=None, num_folds=2, lines=(line,))
    with pytest.raises(ConfigError, match="is in mg/dL, but marker is in mmol/L"):
        fit_forecaster(cohort(60), config)

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from medimind.config.forecast_models import ForecastConfig, TreesConfig
from medimind.forecasting import crossfit
from medimind.forecasting.conformal import calibrate
from medimind.forecasting.crossfit import Choice, OutOfFold
from medimind.forecasting.fit import fit_code
from medimind.forecasting.intervals import interval_errors, make_intervals
from medimind.forecasting.records.table import Records

Cohort = Callable[..., Records]
CONFIG = ForecastConfig(
    experts=("last_value", "patient_mean", "linear"), trees=TreesConfig(num_trees=10), num_folds=3
)


@pytest.fixture(scope="module")
def dropping_out(cohort: Cohort) -> Records:
    """Patients whose last value falls by a random amount that nothing foretells."""
    records = cohort(300, num_visits=8, seed=3)
    last = records.time_days == records.time_days[records.offsets[1:] - 1][records.patient_index]
    fall = np.random.default_rng(0).exponential(4.0, records.num_rows)
    return dataclasses.replace(records, value=records.value - np.where(last, fall, 0.0))


@pytest.fixture(scope="module")
def held(dropping_out: Records) -> OutOfFold:
    return fit_code(dropping_out, "marker", CONFIG)[1]


def test_last_visits_are_held_where_it_is_asked_for(held: OutOfFold) -> None:
    _, by_all = make_intervals(held, wanted="visits")
    _, by_last = make_intervals(held, wanted="last_visits")
    assert by_all["visits"] == pytest.approx(0.9, abs=0.02)
    assert by_all["last_visits"] < 0.86
    assert by_last["last_visits"] == pytest.approx(0.9, abs=0.03)


def test_a_fitted_code_says_what_its_intervals_held(dropping_out: Records) -> None:
    config = CONFIG.model_copy(update={"intervals_for": "last_visits"})
    model, held = fit_code(dropping_out, "marker", config)
    assert model.coverage == make_intervals(held, wanted="last_visits")[1]
    own = interval_errors(held, wanted="last_visits")
    np.testing.assert_array_equal(own.target, held.windows.offsets[1:][own.owner] - 1)
    table = calibrate(own.error, own.spread, own.horizon, own.owner).table_BQ
    np.testing.assert_array_equal(model.calibration.table_BQ, table)


@pytest.mark.parametrize("alone", [False, True])
def test_models_of_a_fold_say_later_what_they_said_when_they_were_judged(
    cohort: Cohort, monkeypatch: pytest.MonkeyPatch, *, alone: bool
) -> None:
    """Whether a stack passed the gate, or one expert alone."""
    if alone:
        choice = Choice("patient_mean", 0.0, 1, {"chosen": 1.0, "last_value": 1.0})
        monkeypatch.setattr(crossfit, "_gate", lambda *_: choice)
    model, held = fit_code(cohort(80, num_visits=8, noise=2.0), "marker", CONFIG)
    assert (model.method == "patient_mean") == alone
    point, spread = held.ask(held.origin, held.horizon)
    np.testing.assert_allclose(point, held.point, rtol=1e-9)
    np.testing.assert_allclose(spread, held.spread, rtol=1e-9)

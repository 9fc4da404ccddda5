from __future__ import annotations

import numpy as np

from medimind.forecasting.records.table import DAYS_A_YEAR
from medimind.forecasting.simulate import simulate_cohort, simulate_parts


def test_measurements_scatter_round_the_known_truth() -> None:
    cohort = simulate_cohort(2000, seed=1)
    series = cohort.records.series("98979-8")
    last = series.offsets[1:] - 1
    error = series.value[last] - cohort.expected_gfr(series.time_days[last] / DAYS_A_YEAR)
    assert abs(error.mean()) < 0.4
    # Wandering (3.0) and noise (2.5) together.
    assert 3.5 < error.std() < 4.3


def test_a_large_cohort_in_parts_has_distinct_patients_with_all_visits() -> None:
    parts = list(simulate_parts(250, part=100, seed=0))
    names = np.concatenate([part.patients for part in parts])
    assert len(set(names)) == 250
    assert all((np.diff(part.offsets) == 16).all() for part in parts)
    assert parts[0].value[0] != parts[1].value[0]


def test_dialysis_comes_after_the_last_visit_and_more_often_with_low_function() -> None:
    records = simulate_cohort(4000, seed=2).records
    event, series = records.events["dialysis"], records.series("98979-8")
    last = series.offsets[1:] - 1
    assert np.all(event.time_days > series.time_days[last])
    low = series.value[last] < 45
    assert event.is_observed[low].mean() > 3 * event.is_observed[~low].mean()

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from medimind.config.forecast_models import ForecastConfig, LeaspyConfig
from medimind.errors import DataError
from medimind.forecasting.fit import course_codes, fit_code
from medimind.forecasting.forecaster import point_and_spread
from medimind.forecasting.models.course import DiseaseCourse, forecast_course, personalise
from medimind.forecasting.models.leaspy_fit import fit_course
from medimind.forecasting.records.table import DAYS_A_YEAR, Records, make_records
from medimind.forecasting.windows import make_windows

TRUTH = {
    "slope": [0.35, 0.2], "offset": [-0.5, 0.3], "mixing": [[0.6, -0.4]], "tau_mean": 70.0,
    "tau_std": 4.0, "xi_std": 0.4, "noise": [0.03, 0.03], "model": {}, "version": "0.0",
}  # fmt: skip


def course() -> DiseaseCourse:
    return DiseaseCourse(
        codes=("rising", "falling"),
        low=np.zeros(2),
        high=np.ones(2),
        falls=np.array([False, True]),
        slope=np.array(TRUTH["slope"]),
        offset=np.array(TRUTH["offset"]),
        mixing_JC=np.array(TRUTH["mixing"]),
        tau_mean=70.0,
        tau_std=4.0,
        xi_std=0.4,
        noise=np.array(TRUTH["noise"]),
        version="0.0",
    )


def records(num_patients: int = 60, *, noise: float = 0.03) -> tuple[Records, np.ndarray]:
    """Patients of that course, with their own parameters; some values are missing."""
    draw = np.random.default_rng(3)
    own = draw.normal(0, 1, (num_patients, 3))
    years = 66 + np.cumsum(draw.uniform(0.4, 1.2, (num_patients, 8)), axis=1)
    share = course().share(own, years) + draw.normal(0, noise, (num_patients, 8, 2))
    value = np.clip(share, 0, 1)
    value[..., 1] = 1 - value[..., 1]
    keep = draw.random(value.shape) < 0.9
    patient, visit, code = np.nonzero(keep)
    return make_records(
        patients=np.array([f"p{i}" for i in range(num_patients)], dtype=object),
        codes=("rising", "falling"),
        units=("1", "1"),
        patient_index=patient,
        time_days=years[patient, visit] * DAYS_A_YEAR,
        code_index=code,
        value=value[keep],
    ), own


def windows_of(known: Records):
    from dataclasses import replace

    from medimind.forecasting.windows import plan_features

    plan = replace(plan_features(known, "falling"), course_codes=("rising", "falling"))
    return make_windows(known, plan)


def test_a_patient_s_parameters_are_found_from_all_codes() -> None:
    known, own = records(noise=0.001)
    visits = windows_of(known).visits
    assert visits is not None
    exact = course()
    found = personalise(exact, visits, visits.offsets[1:] - 1)
    # Ten noises smaller than the course believes in: what is left is the prior's pull.
    assert np.median(np.abs(found - own)) < 0.15
    shown = exact.share(found, visits.years[visits.offsets[1:] - 1][:, None])[:, 0]
    truth = exact.share(own, visits.years[visits.offsets[1:] - 1][:, None])[:, 0]
    assert np.abs(shown - truth).max() < 0.03


def test_only_visits_up_to_the_origin_are_looked_at() -> None:
    known, _ = records()
    windows = windows_of(known)
    assert windows.visits is not None
    origin = windows.offsets[:-1] + 2
    ahead = np.full(len(origin), 2.0)
    before = forecast_course(course(), windows.visits, "falling", origin, ahead)
    cut = known.where(
        known.time_days <= (windows.years[origin] * DAYS_A_YEAR + 1e-6)[known.patient_index]
    )
    shorter = windows_of(cut)
    assert shorter.visits is not None
    rows = shorter.offsets[1:] - 1
    np.testing.assert_allclose(
        forecast_course(course(), shorter.visits, "falling", rows, ahead), before, atol=1e-6
    )


@pytest.fixture
def stand_in(tmp_path: Path) -> Path:
    """A program in place of a Python with leaspy: it notes the task and knows the truth."""
    program = tmp_path / "python"
    program.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        "task = sys.stdin.read()\n"
        f"open({str(tmp_path / 'tasks')!r}, 'a').write(task + chr(10))\n"
        f"print({json.dumps(TRUTH)!r})\n"
    )
    program.chmod(0o755)
    return program


def test_leaspy_is_an_expert_that_the_gate_may_choose(stand_in: Path, tmp_path: Path) -> None:
    known, _ = records()
    config = ForecastConfig(
        experts=("last_value", "patient_mean"), trees=None, num_folds=2,
        leaspy=LeaspyConfig(python=stand_in, cache=tmp_path / "kept"),
    )  # fmt: skip
    model, held = fit_code(known, "falling", config)
    assert {"last_value", "patient_mean", "leaspy"} < set(model.errors)
    assert model.errors["chosen"] <= 1.01 * model.errors["leaspy"]
    assert model.errors["leaspy"] < 0.8 * model.errors["last_value"]
    point, _ = point_and_spread(model.point, held.windows, held.origin, held.horizon)
    assert np.isfinite(point).all()
    # Each fold's patients are strangers to the fit that forecasts them.
    tasks = [json.loads(line) for line in (tmp_path / "tasks").read_text().splitlines()]
    seen = [{row[0] for row in task["train"]} for task in tasks]
    assert len(tasks) == 3
    for fold in range(2):
        others = {f"p{i}" for i in np.flatnonzero(held.fold_of_patient != fold)}
        assert others in seen
    # A second fit takes what was kept, and asks no more.
    fit_code(known, "falling", config)
    assert len((tmp_path / "tasks").read_text().splitlines()) == 3
    assert "leaspy" not in sys.modules


def test_leaspy_takes_codes_between_0_and_1_or_those_it_is_told(stand_in: Path) -> None:
    known, _ = records()
    wide = make_records(
        patients=known.patients, codes=("rising", "falling"), units=("1", "1"),
        patient_index=known.patient_index, time_days=known.time_days,
        code_index=known.code_index,
        value=np.where(known.code_index == 0, 30 * known.value, known.value),
    )  # fmt: skip
    free = ForecastConfig(leaspy=LeaspyConfig(python=stand_in))
    told = ForecastConfig(leaspy=LeaspyConfig(python=stand_in, codes=("rising",)))
    assert course_codes(wide, free) == ("falling",)
    assert course_codes(wide, told) == ("rising",)
    assert course_codes(known, free) == ("rising", "falling")


def test_a_leaspy_that_fails_is_said(tmp_path: Path) -> None:
    program = tmp_path / "python"
    program.write_text("#!/bin/sh\ncat >/dev/null\necho 'No module named leaspy' >&2\nexit 1\n")
    program.chmod(0o755)
    visits = windows_of(records()[0]).visits
    assert visits is not None
    for python, says in ((program, "No module named leaspy"), (tmp_path / "none", "cannot be run")):
        with pytest.raises(DataError, match=says):
            fit_course(visits, np.arange(20), LeaspyConfig(python=python), seed=0)


def test_settings_of_a_result_name_no_place_on_this_machine(stand_in: Path) -> None:
    config = ForecastConfig(leaspy=LeaspyConfig(python=stand_in, iterations=50))
    assert str(stand_in.parent) not in json.dumps(config.public())
    assert config.public()["leaspy"] == {"codes": [], "iterations": 50}

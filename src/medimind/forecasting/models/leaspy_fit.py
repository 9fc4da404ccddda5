"""leaspy as an expert that is never imported: a program of another Python finds the parameters.

leaspy is optional, under the BSD 3-Clause Clear licence, and pins packages that ours do not agree
with. So a user gives the Python of an environment that has it, or a folder that it was installed
into with ``pip install --no-deps --target``. Prediction needs neither (`course`).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np

from medimind.config.forecast_models import LeaspyConfig
from medimind.errors import DataError
from medimind.forecasting.models.course import DiseaseCourse
from medimind.forecasting.records.table import Floats, Integers
from medimind.forecasting.visits import CodeVisits

_PROGRAM = Path(__file__).parent / "leaspy_process.py"
_MARGIN = 0.05
_MOST_SOURCES = 2


def fit_course(
    visits: CodeVisits, patients: Integers, config: LeaspyConfig, *, seed: int
) -> DiseaseCourse:
    """The course that leaspy finds in these patients' visits.

    Raises:
        DataError: If leaspy cannot be run, or fails.
    """
    return fit_answer(visits, patients, config, seed=seed)[0]


def fit_answer(
    visits: CodeVisits, patients: Integers, config: LeaspyConfig, *, seed: int
) -> tuple[DiseaseCourse, dict[str, Any]]:
    """The same, and all that leaspy said."""
    rows = np.flatnonzero(np.isin(visits.patient_index, patients))
    low, high, falls = _ends(visits, rows)
    share_VC = np.clip((visits.value_VC[rows] - low) / (high - low), 0.0, 1.0)
    share_VC = np.where(falls, 1.0 - share_VC, share_VC)
    answer = run_leaspy(
        {
            "train": task_rows(visits.patient_index[rows], visits.years[rows], share_VC),
            "iterations": config.iterations,
            "sources": _MOST_SOURCES,
            "seed": seed,
        },
        config,
    )
    num_codes = len(visits.codes)
    course = DiseaseCourse(
        codes=visits.codes,
        low=low,
        high=high,
        falls=falls,
        slope=np.array(answer["slope"]),
        offset=np.array(answer["offset"]),
        mixing_JC=np.array(answer["mixing"], dtype=np.float64).reshape(-1, num_codes),
        tau_mean=answer["tau_mean"],
        tau_std=answer["tau_std"],
        xi_std=answer["xi_std"],
        noise=np.array(answer["noise"]),
        version=answer["version"],
    )
    return course, answer


def task_rows(owner: Integers, years: Floats, share_VC: Floats) -> list[list[Any]]:
    """Visits as the program reads them."""
    return [
        [f"p{patient}", float(time), [None if np.isnan(one) else float(one) for one in shares]]
        for patient, time, shares in zip(owner, years, share_VC)
    ]


def run_leaspy(task: Mapping[str, Any], config: LeaspyConfig) -> dict[str, Any]:
    """The program's answer to a task, or what was kept of the same task.

    Raises:
        DataError: If leaspy cannot be run, or fails.
    """
    text = json.dumps(task)
    kept = None
    if config.cache is not None:
        kept = config.cache / f"{sha256(text.encode()).hexdigest()[:32]}.json"
        if kept.is_file():
            return json.loads(kept.read_text(encoding="utf-8"))
    answer = _answer(text, config.python)
    if kept is not None:
        kept.parent.mkdir(parents=True, exist_ok=True)
        fresh = kept.with_suffix(".part")
        fresh.write_text(answer, encoding="utf-8")
        fresh.replace(kept)
    return json.loads(answer)


# The codes of a cohort ask for the same fit one after another.
@lru_cache(maxsize=32)
def _answer(task: str, python: Path) -> str:
    environment = {name: text for name, text in os.environ.items() if name != "PYTHONPATH"}
    program = str(python)
    if python.is_dir():
        program, environment["PYTHONPATH"] = sys.executable, str(python.resolve())
    try:
        done = subprocess.run(
            [program, str(_PROGRAM)],
            input=task, capture_output=True, encoding="utf-8", errors="replace", check=False,
            env=environment,
        )  # fmt: skip
    except OSError as problem:
        raise DataError(
            f"leaspy cannot be run ({problem})",
            where=str(python),
            fix="Give the Python of an environment that has leaspy, or leave leaspy away",
        ) from None
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise DataError(
            f"leaspy failed: {last}",
            where=str(python),
            fix="Give the Python of an environment that has leaspy, or leave leaspy away",
        )
    return done.stdout


def _ends(visits: CodeVisits, rows: Integers) -> tuple[Floats, Floats, Any]:
    """(C,) Between which values each code runs, and whether it falls as time goes on."""
    value_VC = visits.value_VC[rows]
    low, high = np.nanmin(value_VC, axis=0), np.nanmax(value_VC, axis=0)
    if np.all((low >= 0) & (high <= 1)):
        low, high = np.zeros(len(low)), np.ones(len(high))
    else:
        margin = _MARGIN * np.where(high > low, high - low, 1.0)
        low, high = low - margin, high + margin
    owner, years = visits.patient_index[rows], visits.years[rows]
    falls = []
    for column in value_VC.T:
        known = np.flatnonzero(~np.isnan(column))
        change, time = np.diff(column[known]), np.diff(years[known])
        same = np.diff(owner[known]) == 0
        falls.append(bool(change[same].sum() < 0) if time[same].sum() > 0 else False)
    return low, high, np.array(falls)

"""Forecasts beside the best single competitor, on eight sets of real and published data.

    python -m pip install --no-deps --target FOLDER leaspy
    python benchmarks/forecast_cells.py --leaspy FOLDER --cache CACHE

With ``--cache`` a run that was stopped goes on with the same command; ``--part I N`` does one of N
shares of the work, for several processes beside each other, and writes no result.

A cell is a set, a code and a task: the last visit from all before it, or four visits ahead from the
fifth-last. Patients are split into folds; every model is fitted to the other folds' patients and
asked about a patient it has never seen, from that patient's history alone. Competitors get the
values as they are (standardised), time, its square and all covariates. leaspy gets all codes of a
set at once. It is made for values between 0 and 1: on its own three sets it is a competitor, and an
expert of our stack that has to pass the same gate as others. Both have 300 iterations unless asked
otherwise (1,000 change its error on the Alzheimer set by less than 1 %). Patients are personalised
by our solver, held to leaspy's own on some of each set (``leaspy_agreement``).

For each cell: mean absolute errors; the paired bootstrap interval (over patients) of ours minus the
best single competitor's, chosen with hindsight in that very cell; the 90 % interval's coverage and
width beside conformal intervals round the last value, calibrated in the same way on the same
patients. ``by_code`` holds the same coverage over all pairs one and four visits apart.

Intervals are made twice (``intervals_for`` of the settings): from errors on all other patients'
``visits``, and from those on their ``last_visits``. Exact binomial tests take forecasts as
independent; ``standard_error`` takes patients as the units. ``totals`` says what intervals that
hold exactly 90 % would show by chance.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
import time
from datetime import date
from pathlib import Path

import numpy as np
from forecast_intervals import KINDS, chance_within, ends_of, interval_figures, rejections
from forecast_sets import SETS, Set, load_set

from medimind.config.forecast_models import ForecastConfig, LeaspyConfig
from medimind.evaluation.statistics import paired_bootstrap
from medimind.forecasting.fit import course_codes, fit_code
from medimind.forecasting.forecaster import point_and_spread
from medimind.forecasting.models import simple
from medimind.forecasting.models.course import forecast_course, personalise
from medimind.forecasting.models.leaspy_fit import fit_answer, run_leaspy, task_rows
from medimind.forecasting.models.mixed import filter_states, forecast_mixed
from medimind.forecasting.models.mixed_fit import fit_linear_mixed, fit_mixed_process
from medimind.forecasting.records.table import Records
from medimind.forecasting.scale import Scale
from medimind.forecasting.windows import (
    FeaturePlan,
    Windows,
    make_pairs,
    make_windows,
    plan_features,
)
from medimind.tracking.provenance import collect

RESULT = Path(__file__).parent / "results" / "forecast_cells.json"
TASKS = {"last visit": 1, "four visits ahead": 4}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--leaspy", type=Path, help="folder that leaspy is installed in")
    parser.add_argument("--leaspy-iterations", type=int, default=300)
    parser.add_argument("--folds", type=int, default=3)
    parser.add_argument("--short", nargs="*", default=[], help="of these sets only the first fold")
    parser.add_argument("--part", type=int, nargs=2, metavar=("I", "N"))
    parser.add_argument("--sets", nargs="*", help="only these sets")
    parser.add_argument("--cache", type=Path, help="keep finished folds here, and go on from them")
    parser.add_argument("--output", type=Path, default=RESULT)
    arguments = parser.parse_args()
    started = time.time()
    sets = [
        one
        for one in SETS
        if (not arguments.sets or one.name in arguments.sets)
        and not (one.is_leaspys and arguments.leaspy is None)
    ]
    if arguments.part:
        index, count = arguments.part
        work = [(one, code, fold) for one in sets for fold in folds_of(arguments, one)
                for code in one.codes]  # fmt: skip
        for one, code, fold in work[index::count]:
            rows_of(arguments, one, code, fold)
        return
    cells, by_code = [], []
    for one in sets:
        for code in one.codes:
            mine = [
                row
                for fold in folds_of(arguments, one)
                for row in rows_of(arguments, one, code, fold)
            ]
            cells += [summarise(one, code, task, mine) for task in TASKS]
            by_code.append(coverage(one, code, mine))
            for cell in cells[-2:]:
                print(line(cell), flush=True)
    report = {
        "command": command_line(arguments),
        "date": date.today().isoformat(),
        "seconds": round(time.time() - started),
        "provenance": collect(seed=0),
        "settings": settings(arguments).public(),
        "leaspy_agreement": agreement(arguments, sets),
        "folds": {
            one.name: f"{len(folds_of(arguments, one))} of {arguments.folds}" for one in sets
        },
        "totals": totals(cells, by_code),
        "cells": cells,
        "by_code": by_code,
    }
    arguments.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report["totals"], indent=1))


def command_line(arguments: argparse.Namespace) -> str:
    """The command without places on this machine."""
    words = ["python benchmarks/forecast_cells.py"]
    words += ["--leaspy FOLDER"] if arguments.leaspy else []
    words += ["--cache CACHE"] if arguments.cache else []
    for name in ("sets", "short"):
        chosen = getattr(arguments, name)
        words += [f"--{name}", *(f'"{one}"' for one in chosen)] if chosen else []
    return " ".join(words)


def settings(arguments: argparse.Namespace) -> ForecastConfig:
    if arguments.leaspy is None:
        return ForecastConfig()
    return ForecastConfig(
        leaspy=LeaspyConfig(
            python=arguments.leaspy,
            iterations=arguments.leaspy_iterations,
            cache=arguments.cache / "leaspy" if arguments.cache else None,
        )
    )


def folds_of(arguments: argparse.Namespace, one: Set) -> range:
    return range(1 if one.name in arguments.short else arguments.folds)


def rows_of(arguments: argparse.Namespace, one: Set, code: str, fold: int) -> list[dict]:
    """A row per forecast, from the cache where the fold was finished before."""
    if arguments.cache is None:
        return run(arguments, one, code, fold)
    name = f"{one.name}-{code}-{fold}-of-{arguments.folds}".replace(" ", "-").replace("/", "-")
    path = arguments.cache / f"{name}.json"
    if not path.exists():
        arguments.cache.mkdir(parents=True, exist_ok=True)
        rows = run(arguments, one, code, fold)
        path.with_suffix(".part").write_text(json.dumps(rows), encoding="utf-8")
        path.with_suffix(".part").replace(path)
    return json.loads(path.read_text(encoding="utf-8"))


def split(records: Records, fold: int, folds: int) -> tuple[Records, Records]:
    order = np.random.default_rng(0).permutation(records.num_patients) % folds
    return records.take(np.flatnonzero(order != fold)), records.take(np.flatnonzero(order == fold))


def run(arguments: argparse.Namespace, one: Set, code: str, fold: int) -> list[dict]:
    """A row per forecast: errors of every model, and of both intervals."""
    started = time.time()
    train, test = split(load_set(one, leaspy=arguments.leaspy), fold, arguments.folds)
    rows = run_code(train, test, code, settings(arguments))
    print(f"  {one.name} {code} fold {fold}: {time.time() - started:.0f} s", file=sys.stderr,
          flush=True)  # fmt: skip
    return rows


def run_code(train: Records, test: Records, code: str, config: ForecastConfig) -> list[dict]:
    model, held = fit_code(train, code, config)
    plain = plain_plan(model.plan, train)
    rivals = {
        "statsmodels MixedLM": fit_linear_mixed(
            make_windows(train, plain), np.arange(train.num_patients), seed=0
        ),
        "GPBoost": fit_mixed_process(
            make_windows(train, plain), np.arange(train.num_patients), seed=0
        ),
    }
    inverse = model.plan.scale.inverse
    value = inverse(held.windows.value)
    slope = simple.fit_population_slope(
        value[held.target] - value[held.origin], held.horizon, np.ones(len(held.origin))
    )
    windows, raw = make_windows(test, model.plan), make_windows(test, plain)
    origin, target, task = asked(windows)
    horizon = windows.years[target] - windows.years[origin]
    # As they stand in the records: on a scale and back a 0 may come out below 0.
    measured = test.series(code).value
    truth, last = measured[target], measured[origin]
    point, spread = point_and_spread(model.point, windows, origin, horizon)
    forecasts = {
        "ours": inverse(point),
        "last value": last,
        "patient mean": plain.scale.inverse(raw.mean[origin]),
        "population slope": last + slope * horizon,
    }
    for name, rival in rivals.items():
        if rival is not None:
            mean, _ = forecast_mixed(rival, raw, filter_states(rival, raw), origin, horizon)
            forecasts[name] = plain.scale.inverse(mean)
    course = model.point.experts.course
    if course is not None and windows.visits is not None:
        forecasts["leaspy"] = forecast_course(course, windows.visits, code, origin, horizon)
    intervals = {
        wanted: ends_of(held, inverse, wanted, last, point, spread, horizon) for wanted in KINDS
    }
    return [
        {
            "code": code,
            "task": task[i],
            "patient": str(test.patients[windows.patient_index[origin[i]]]),
            "truth": float(truth[i]),
            "errors": {
                name: float(abs(values[i] - truth[i])) for name, values in forecasts.items()
            },
            "intervals": {
                wanted: {
                    "covered": bool(low[i] <= truth[i] <= high[i]),
                    "width": float(high[i] - low[i]),
                    "last_value_covered": bool(flat_low[i] <= truth[i] <= flat_high[i]),
                    "last_value_width": float(flat_high[i] - flat_low[i]),
                }
                for wanted, (low, high, flat_low, flat_high) in intervals.items()
            },
            "method": model.method,
        }
        for i in range(len(origin))
    ]


def agreement(arguments: argparse.Namespace, sets: list[Set], *, patients: int = 8) -> list[dict]:
    """Leaspy's own personalisation beside ours: last visits of some patients, in shares."""
    found = []
    config = settings(arguments)
    for one in sets:
        if config.leaspy is None or not one.is_leaspys:
            continue
        train, test = split(load_set(one, leaspy=arguments.leaspy), 0, arguments.folds)
        plan = dataclasses.replace(
            plan_features(train, one.codes[0]),
            course_codes=course_codes(train, config),
        )
        fitted = make_windows(train, plan).visits
        assert fitted is not None
        course, answer = fit_answer(fitted, np.arange(train.num_patients), config.leaspy, seed=0)
        visits = make_windows(test, plan).visits
        assert visits is not None
        some = np.flatnonzero(np.diff(visits.offsets) > 1)[:patients]
        ends = visits.offsets[1:][some] - 1
        history = np.concatenate([np.arange(visits.offsets[i], e) for i, e in zip(some, ends)])
        share = course.shares(visits.value_VC)
        task = {
            "model": answer["model"],
            "history": task_rows(
                visits.patient_index[history], visits.years[history], share[history]
            ),
            "ask": [[f"p{i}", float(visits.years[e])] for i, e in zip(some, ends)],
            "seed": 0,
        }
        theirs = np.array(run_leaspy(task, config.leaspy)["shares"])
        own = personalise(course, visits, ends - 1)
        ours = course.share(own, visits.years[ends][:, None])[:, 0]
        truth = share[ends]
        found.append(
            {
                "set": one.name,
                "patients": len(some),
                "mean_difference": float(np.mean(np.abs(theirs - ours))),
                "largest_difference": float(np.max(np.abs(theirs - ours))),
                "mae_leaspys": float(np.nanmean(np.abs(theirs - truth))),
                "mae_ours": float(np.nanmean(np.abs(ours - truth))),
            }
        )
    return found


def plain_plan(plan: FeaturePlan, train: Records) -> FeaturePlan:
    value = train.series(plan.code).value
    scale = Scale(centre=float(value.mean()), spread=float(value.std()) or 1.0)
    return dataclasses.replace(plan, scale=scale, companions={})


def asked(windows: Windows) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Origins and targets of both tasks, then of all pairs one and four visits apart."""
    counts, ends = np.diff(windows.offsets), windows.offsets[1:]
    origins, targets, names = [], [], []
    for task, steps in TASKS.items():
        patients = np.flatnonzero(counts > steps)
        targets.append(ends[patients] - 1)
        origins.append(ends[patients] - 1 - steps)
        names += [task] * len(patients)
    origin, target = make_pairs(windows.offsets, (1, 4))
    names += ["all pairs"] * len(origin)
    return np.concatenate([*origins, origin]), np.concatenate([*targets, target]), names


def summarise(one: Set, code: str, task: str, rows: list[dict]) -> dict:
    mine = [row for row in rows if row["task"] == task]
    names = [name for name in mine[0]["errors"] if all(name in row["errors"] for row in mine)]
    mae = {name: float(np.mean([row["errors"][name] for row in mine])) for name in names}
    best = min((name for name in names if name != "ours"), key=lambda name: mae[name])
    difference = [row["errors"]["ours"] - row["errors"][best] for row in mine]
    interval = paired_bootstrap(difference, seed=0)
    return {
        "set": one.name,
        "code": code,
        "task": task,
        "num_patients": len(mine),
        "mae": mae,
        "best_single": best,
        "change": mae["ours"] / mae[best] - 1,
        "difference_low": interval.low,
        "difference_high": interval.high,
        "is_at_most": interval.low <= 0,
        "methods": sorted({row["method"] for row in mine}),
        **interval_figures(mine, "visits"),
        "calibrated_on_last_visits": interval_figures(mine, "last_visits"),
    }


def coverage(one: Set, code: str, rows: list[dict]) -> dict:
    """Coverage of one feature: over all pairs, and of each patient's last visit."""
    pairs = [row for row in rows if row["task"] == "all pairs"]
    result: dict = {"set": one.name, "code": code}
    result["all_pairs"] = {"num": len(pairs), **interval_figures(pairs, "visits")}
    for task, name in (("last visit", "last_visit"), ("four visits ahead", "four_visits_ahead")):
        mine = [row for row in rows if row["task"] == task]
        for wanted in KINDS:
            figures = interval_figures(mine, wanted)
            result[f"{name}_by_{wanted}"] = {"num": len(mine), **figures}
    return result


def totals(cells: list[dict], by_code: list[dict]) -> dict:
    changes = [cell["change"] for cell in cells]
    real = [c["change"] for c in cells if c["set"] != "telemonitoring"]
    pairs = [one["all_pairs"] for one in by_code]
    large = [one for one in pairs if one["num"] >= 900]
    within = [chance_within(one["standard_error"]) for one in large]
    tests = {
        f"{task}_by_{wanted}": rejections([one[f"{task}_by_{wanted}"] for one in by_code])
        for task in ("last_visit", "four_visits_ahead")
        for wanted in KINDS
    }
    return {
        "cells": len(cells),
        "cells_at_most_best_single": sum(cell["is_at_most"] for cell in cells),
        "mean_change": float(np.mean(changes)),
        "median_change": float(np.median(changes)),
        "mean_change_without_telemonitoring": float(np.mean(real)) if real else None,
        "codes_with_900_pairs": len(large),
        "of_them_within_88_to_92_percent": sum(0.88 <= one["coverage"] <= 0.92 for one in large),
        "exact_intervals_would_have_within": float(np.sum(within)),
        "mean_coverage": float(np.mean([one["coverage"] for one in pairs])),
        "mean_width_ratio": float(np.mean([one["width_ratio"] for one in pairs])),
        "codes_with_width_at_most_90_percent": sum(one["width_ratio"] <= 0.9 for one in pairs),
        "binomial_tests": tests,
    }


def line(cell: dict) -> str:
    best = cell["best_single"]
    return (
        f"{cell['set']:18s}{cell['code']:26s}{cell['task']:18s} n={cell['num_patients']:4d} "
        f"ours {cell['mae']['ours']:9.4g}  {best:20s}{cell['mae'][best]:9.4g}"
        f" {100 * cell['change']:+6.1f} %  {'ok' if cell['is_at_most'] else 'WORSE'}"
        f"  cover {cell['coverage']:.3f}  width {cell['width_ratio']:.2f}"
    )


if __name__ == "__main__":
    main()

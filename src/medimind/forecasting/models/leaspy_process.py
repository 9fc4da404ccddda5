"""leaspy, run by a Python that has it: its pins (numpy < 2, torch < 2.8) are not ours.

This file is a program. It imports nothing of medimind, reads a task from standard input and writes
the answer to standard output, both JSON:

    {"train": ROWS, "iterations": n, "sources": j, "seed": s}
        -> {"slope", "offset", "mixing", "tau_mean", "tau_std", "xi_std", "noise", "model",
            "version"}
    {"model": that of an answer, "history": ROWS, "ask": [[patient, years], ...], "seed": s}
        -> {"shares": [[share, ...], ...]}

``ROWS`` are ``[patient, years, [share, ...]]``; shares lie between 0 and 1 and rise with the
disease, unknown ones are null. leaspy, under the BSD 3-Clause Clear licence, is no part of ours.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
import tempfile
import warnings
from pathlib import Path


def main() -> None:
    """Answer one task."""
    warnings.simplefilter("ignore")
    task = json.load(sys.stdin)
    with contextlib.redirect_stdout(sys.stderr):
        importlib.import_module("torch").set_num_threads(1)
        answer = fit(task) if "train" in task else forecast(task)
    json.dump(answer, sys.stdout)


def fit(task: dict) -> dict:
    """The population's parameters by leaspy's stochastic EM."""
    models = importlib.import_module("leaspy.models")
    num_values = len(task["train"][0][2])
    model = models.LogisticModel(
        name="expert", dimension=num_values, source_dimension=min(task["sources"], num_values - 1)
    )
    model.fit(
        data_of(task["train"]),
        "mcmc_saem",
        seed=task["seed"],
        n_iter=task["iterations"],
        progress_bar=False,
    )
    state = model.state
    metric, v0, g = (state[name].detach().reshape(-1) for name in ("metric", "v0", "g"))
    mixing = []
    if num_values > 1 and task["sources"] > 0:
        mixing = (state["mixing_matrix"].detach() * metric).tolist()
    known = model.parameters
    noise = known["noise_std"].reshape(-1).tolist()
    return {
        "slope": (metric * v0).tolist(),
        "offset": (-g.log()).tolist(),
        "mixing": mixing,
        "tau_mean": float(known["tau_mean"]),
        "tau_std": float(known["tau_std"]),
        "xi_std": float(known["xi_std"]),
        "noise": noise * (num_values // len(noise)),
        "model": saved(model),
        "version": importlib.import_module("importlib.metadata").version("leaspy"),
    }


def forecast(task: dict) -> dict:
    """Leaspy's own forecasts, each patient personalised from a history."""
    base = importlib.import_module("leaspy.models.base")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.json"
        path.write_text(json.dumps(task["model"]), encoding="utf-8")
        model = base.BaseModel.load(str(path))
    found = model.personalize(
        data_of(task["history"]), "scipy_minimize", seed=task["seed"], progress_bar=False
    )
    values = model.estimate({patient: [years] for patient, years in task["ask"]}, found)
    return {"shares": [values[patient][0].tolist() for patient, _ in task["ask"]]}


def saved(model: object) -> dict:
    """What leaspy writes of a model."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.json"
        model.save(str(path))  # pyright: ignore[reportAttributeAccessIssue]
        return json.loads(path.read_text(encoding="utf-8"))


def data_of(rows: list) -> object:
    """Rows as leaspy takes them."""
    pandas = importlib.import_module("pandas")
    data = importlib.import_module("leaspy.io.data")
    columns: dict[str, list] = {"ID": [], "TIME": []}
    for patient, years, values in rows:
        columns["ID"].append(patient)
        columns["TIME"].append(years)
        for index, value in enumerate(values):
            columns.setdefault(f"v{index}", []).append(float("nan") if value is None else value)
    return data.Data.from_dataframe(pandas.DataFrame(columns).set_index(["ID", "TIME"]))


if __name__ == "__main__":
    main()

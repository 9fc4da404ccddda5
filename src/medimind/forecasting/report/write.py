"""Pages of a folder of forecasts.

```
report.html          the cohort
patients/NAME.html   a patient, beside its JSON
```
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from medimind.engines.engine import Engine
from medimind.errors import DataError
from medimind.forecasting.narrative.narrate import narrate
from medimind.forecasting.outputs import FORECASTS, PATIENTS, RISKS, VALIDATION
from medimind.forecasting.records.codes import find_code
from medimind.forecasting.report.interactive import write_script
from medimind.forecasting.report.page import cohort_page, patient_page

REPORT = "report.html"
_HIGHEST = 10
_SMALLEST_PERCENT = 0.1
_SUFFICIENT = "sufficient"


def write_report(
    folder: Path,
    *,
    max_patients: int = 50,
    engine: Engine | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> tuple[int, int]:
    """Write the cohort's page and pages of the first patients; how many, and by the model.

    Raises:
        DataError: If there are no forecasts, or pages cannot be written.
    """
    if not (folder / FORECASTS).is_file():
        raise DataError(
            "there are no forecasts",
            where=str(folder),
            fix="Make them with: medimind forecast predict FORECASTER RECORDS --out FOLDER",
        )
    paths = sorted((folder / PATIENTS).glob("*.json"))[:max_patients]
    links, models, by_model = [], {}, 0
    try:
        if paths:
            write_script(folder / PATIENTS)
        for index, path in enumerate(paths):
            if on_progress:
                on_progress("pages", index, len(paths))
            document = _document(path)
            narrative = narrate(document, engine=engine)
            by_model += narrative.source == "model"
            page = path.with_suffix(".html")
            page.write_text(patient_page(document, narrative), encoding="utf-8")
            models |= {part["code"]: part["model"] for part in document["codes"]}
            links.append(
                {
                    "patient": document["patient"],
                    "href": f"{PATIENTS}/{page.name}",
                    "is_insufficient": not all(
                        part["evidence"]["is_sufficient"] for part in document["codes"]
                    ),
                }
            )
        if on_progress and paths:
            on_progress("pages", len(paths), len(paths))
        page = cohort_page(summarise(folder), links, models)
        (folder / REPORT).write_text(page, encoding="utf-8")
    except OSError as problem:
        raise DataError(f"cannot write ({problem})", where=str(folder)) from problem
    return len(paths), by_model


def summarise(folder: Path) -> dict[str, Any]:
    """Counts and spreads over the cohort at each code's and risk's last horizon but one."""
    import pyarrow.parquet as pq

    forecasts = pq.read_table(folder / FORECASTS)
    column = {name: forecasts.column(name).to_numpy() for name in ("horizon_days", "forecast")}
    texts = {name: _texts(forecasts, name) for name in ("patient", "code", "unit", "evidence")}
    codes = []
    for code in dict.fromkeys(texts["code"]):
        mine = texts["code"] == code
        days = _horizon(column["horizon_days"][mine])
        at = mine & (column["horizon_days"] == days)
        sufficient = at & (texts["evidence"] == _SUFFICIENT)
        values = column["forecast"][sufficient] if sufficient.any() else np.zeros(1)
        known = find_code(str(code))
        first_days = float(column["horizon_days"][mine].min())
        first = mine & (column["horizon_days"] == first_days)
        changes = (column["forecast"][at] - column["forecast"][first])[
            texts["evidence"][at] == _SUFFICIENT
        ]
        low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
        codes.append(
            {
                "code": str(code), "name": known.short if known else str(code),
                "unit": str(texts["unit"][at][0]), "horizon_days": days,
                "first_days": first_days,
                "num_patients": int(sufficient.sum()),
                "num_insufficient": int(at.sum() - sufficient.sum()),
                "low": low, "median": middle, "high": high, "changes": changes.tolist(),
            }
        )  # fmt: skip
    path = folder / VALIDATION
    return {
        "num_patients": len(set(texts["patient"])),
        "codes": codes,
        "risks": _risks(folder),
        "validation": json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None,
    }


def _risks(folder: Path) -> list[dict[str, Any]]:
    import pyarrow.parquet as pq

    table = pq.read_table(folder / RISKS)
    names, patients = _texts(table, "risk"), _texts(table, "patient")
    days, by = table.column("horizon_days").to_numpy(), 100 * table.column("by").to_numpy()
    found = []
    for name in dict.fromkeys(names):
        mine = names == name
        horizon = _horizon(days[mine])
        at = mine & (days == horizon)
        known = at & np.isfinite(by)
        order = np.flatnonzero(known)[np.argsort(-by[known], kind="stable")][:_HIGHEST]
        order = order[by[order] >= _SMALLEST_PERCENT]
        found.append(
            {
                "name": str(name),
                "horizon_days": horizon,
                "num_patients": int(known.sum()),
                "num_crossed": int(at.sum() - known.sum()),
                "expected": float(by[known].sum() / 100),
                "values": by[known].tolist(),
                "highest": [{"patient": patients[row], "by": float(by[row])} for row in order],
            }
        )
    return found


def _horizon(days: np.ndarray) -> float:
    """About a year where there is such a horizon, else the one nearest to it."""
    distinct = np.unique(days)
    return float(distinct[np.argmin(np.abs(distinct - 365.25))])


def _texts(table: Any, name: str) -> np.ndarray:
    return np.array(table.column(name).to_pylist(), dtype=object)


def _document(path: Path) -> Mapping[str, Any]:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except ValueError as problem:
        raise DataError(f"the document is damaged ({problem})", where=str(path)) from None

"""Forecasts of the few patients of one file held in memory: what a server sends back.

```
bytes ─► validation ─► records ─► forecasts, risks ─► document and account of each patient
```

Nothing is written to a disk, nothing of the records goes to a log. A `Forecaster` may be shared by
threads: it is never changed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np

from medimind.config.forecast import InputConfig
from medimind.engines.engine import Engine
from medimind.errors import DataError
from medimind.forecasting.document import INTENDED_USE, patient_documents
from medimind.forecasting.forecaster import Forecaster
from medimind.forecasting.narrative.narrate import UntracedError, narrate
from medimind.forecasting.predict import predict
from medimind.forecasting.records.findings import KINDS, Finding, Validation
from medimind.forecasting.records.read import records_of
from medimind.forecasting.records.table import Records

_MOST_NAMES = 20
_UNTRACED = "There is no account: a claim of it could not be traced to the forecast."


def forecast_patient(
    forecaster: Forecaster,
    content: bytes,
    *,
    kind: str,
    patient: str | None = None,
    horizons_days: Sequence[float] = (),
    config: InputConfig | None = None,
    engine: Engine | None = None,
    max_findings: int = 200,
) -> dict[str, Any]:
    """The forecast of one patient as a JSON-able object.

    Args:
        forecaster: What was fitted (`store.load_forecaster`).
        content: The records: a long CSV table, a FHIR Bundle or resource, or FHIR as NDJSON.
        kind: ``csv``, ``fhir`` or ``ndjson``.
        patient: Whom to forecast; may be left out where the records are of one patient.
        horizons_days: Horizons of values; none takes the forecaster's own.
        config: What the columns are; the default names where left out.
        engine: A model that writes the account; a template does without one.
        max_findings: At most so many findings are listed; all are counted.

    Returns:
        The one entry of ``patients`` that `forecast_patients` would give, and beside it what that
        says of the file.

    Raises:
        DataError: If the records cannot be read, hold no usable measurement, or it is not clear
            which patient is meant.
    """
    answer = forecast_patients(
        forecaster,
        content,
        kind=kind,
        choose=lambda records: _one_patient(records, patient),
        horizons_days=horizons_days,
        config=config,
        engine=engine,
        max_findings=max_findings,
    )
    (mine,) = answer.pop("patients")
    return {**mine, **answer}


def forecast_patients(
    forecaster: Forecaster,
    content: bytes,
    *,
    kind: str,
    choose: Callable[[Records], Records] = lambda records: records,
    horizons_days: Sequence[float] = (),
    config: InputConfig | None = None,
    engine: Engine | None = None,
    max_findings: int = 200,
) -> dict[str, Any]:
    """The forecasts of a file's patients as a JSON-able object.

    Args:
        forecaster: What was fitted.
        content: The records, as for `forecast_patient`.
        kind: ``csv``, ``fhir`` or ``ndjson``.
        choose: Takes some of the patients who have usable rows, or refuses.
        horizons_days: Horizons of values; none takes the forecaster's own.
        config: What the columns are.
        engine: A model that writes the accounts.
        max_findings: At most so many findings are listed; all are counted.

    Returns:
        ``patients``, each with ``document`` (as `document.patient_documents` makes it),
        ``narrative`` (``text``, ``source``: ``model`` or ``template``, ``refused``) and
        ``first_day``; ``validation`` (counts that add up) with ``findings`` (row, patient, code,
        what, fix); ``unused_codes``, which the forecaster has no model of; ``intended_use``.

    Raises:
        DataError: If the records cannot be read, or hold no usable measurement.
    """
    records, validation = records_of(content, config or InputConfig(), kind=kind, where="file")
    known = np.flatnonzero(np.diff(records.offsets) > 0)
    if len(known) == 0:
        raise DataError(f"nothing in the file can be used{_reasons(validation)}")
    chosen = choose(records.take(known))
    return {
        "patients": list(_patients(forecaster, chosen, horizons_days, engine)),
        "validation": validation.summary(),
        "findings": [_finding(one) for one in islice(validation.findings(), max_findings)],
        "unused_codes": [code for code in records.codes if code not in forecaster.codes],
        "intended_use": INTENDED_USE,
    }


def _patients(
    forecaster: Forecaster, records: Records, horizons: Sequence[float], engine: Engine | None
) -> Iterator[dict[str, Any]]:
    forecasts, risks = predict(forecaster, records, horizons_days=tuple(horizons))
    documents = patient_documents(forecaster, records, forecasts, risks)
    for place, document in enumerate(documents):
        yield {
            "document": document,
            "narrative": _narrative(document, engine),
            "first_day": _first_day(records, place),
        }


def _narrative(document: dict[str, Any], engine: Engine | None) -> dict[str, Any]:
    try:
        told = narrate(document, engine=engine)
    except UntracedError:
        return {"text": _UNTRACED, "source": "template", "refused": 1}
    return {"text": told.text, "source": told.source, "refused": len(told.refused)}


def _one_patient(records: Records, patient: str | None) -> Records:
    names = [str(name) for name in records.patients]
    if patient is None and len(names) > 1:
        raise DataError(
            f"the records are of {len(names)} patients",
            fix=f"Name one of them: {', '.join(names[:_MOST_NAMES])}",
        )
    wanted = names[0] if patient is None else patient
    found = np.flatnonzero(records.patients == wanted)
    if len(found) == 0:
        raise DataError(f"there is no patient '{wanted}' with a usable measurement")
    return records.take(found)


def _reasons(validation: Validation) -> str:
    """Why rows were left out, without what they hold."""
    told = [
        f"{count} x {KINDS[kind].title} ({KINDS[kind].fix})"
        for kind, count in validation.left_out.most_common(3)
    ]
    return f": {'; '.join(told)}" if told else ", it holds no measurement"


def _finding(finding: Finding) -> dict[str, Any]:
    row = finding.as_row()
    del row["where"]  # the file, which only the sender can name
    return row


def _first_day(records: Records, place: int) -> str | None:
    """The date that the patient's clock begins at, where the file has dates."""
    if records.origin_day is None or not np.isfinite(records.origin_day[place]):
        return None
    return str(np.datetime64(int(records.origin_day[place]), "D"))

"""One patient's forecast from records held in memory: what a server sends back.

```
bytes ─► validation ─► records of one patient ─► forecast ─► document ─► account in words
```

Nothing is written to a disk, nothing of the records goes to a log. A `Forecaster` may be shared by
threads: it is never changed.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any

import numpy as np

from medimind.config.forecast import InputConfig
from medimind.engines.engine import Engine
from medimind.errors import DataError
from medimind.forecasting.document import INTENDED_USE, patient_documents
from medimind.forecasting.forecaster import Forecaster
from medimind.forecasting.narrative.narrate import narrate
from medimind.forecasting.predict import predict
from medimind.forecasting.records.read import records_of
from medimind.forecasting.records.table import Records

_MOST_NAMES = 20


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
        ``document`` (as `document.patient_documents` makes it), ``narrative`` (``text``,
        ``source``: ``model`` or ``template``, ``num_refused``), ``validation`` (counts that add
        up) with ``findings`` (row, patient, code, what, fix), and ``intended_use``.

    Raises:
        DataError: If the records cannot be read, hold no usable measurement, or it is not clear
            which patient is meant.
    """
    records, validation = records_of(content, config or InputConfig(), kind=kind)
    mine = _one_patient(records, patient)
    forecasts, risks = predict(forecaster, mine, horizons_days=tuple(horizons_days))
    document = next(patient_documents(forecaster, mine, forecasts, risks))
    account = narrate(document, engine=engine)
    return {
        "document": document,
        "narrative": {
            "text": account.text,
            "source": account.source,
            "num_refused": len(account.refused),
        },
        "validation": validation.summary(),
        "findings": [one.as_row() for one in islice(validation.findings(), max_findings)],
        "intended_use": INTENDED_USE,
    }


def _one_patient(records: Records, patient: str | None) -> Records:
    names = [str(name) for name in records.patients[np.diff(records.offsets) > 0]]
    if not names:
        raise DataError(
            "the records hold no usable measurement",
            fix="medimind forecast validate RECORDS says what is wrong with each row",
        )
    if patient is None and len(names) > 1:
        raise DataError(
            f"the records are of {len(names)} patients",
            fix=f"Name one of them: {', '.join(names[:_MOST_NAMES])}",
        )
    wanted = names[0] if patient is None else patient
    found = np.flatnonzero(records.patients == wanted)
    if len(found) == 0:
        raise DataError(f"there is no patient '{wanted}'")
    return records.take(found)

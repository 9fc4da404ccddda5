"""A file of records to all that is said of its patients; the forecaster's process works with this.

```
bytes ─► rows ─► validation ─► records ─► forecasts, risks ─► document and account of each patient
```
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from itertools import islice
from pathlib import Path
from typing import Any

from medimind.config.forecast import InputConfig, load_input_config
from medimind.errors import DataError, MediMindError, MissingExtraError
from medimind.forecasting.answer import forecast_patients
from medimind.forecasting.document import model_summary
from medimind.forecasting.forecaster import Forecaster
from medimind.forecasting.records.codes import find_code
from medimind.forecasting.records.table import DAYS_A_YEAR, Records
from medimind.forecasting.records.unit_names import written_unit
from medimind.forecasting.store import load_forecaster

MOST_PATIENTS = 20
_MOST_FINDINGS = 100
_EXAMPLE_CODES = 6
_EXAMPLE_VISITS = 6
_BINARY = (b"PAR1", b"PK\x03\x04", b"\x1f\x8b", b"%PDF", b"\xd0\xcf\x11\xe0")


class TooManyPatientsError(DataError):
    """A file of more patients than are forecast at a time."""


@dataclass(frozen=True, slots=True)
class Desk:
    """A forecaster that is asked for the patients of one file at a time.

    Attributes:
        forecaster: What was fitted.
        config: What columns of tables mean.
        example: A file of a made-up patient; ``None`` where none can be made.
    """

    forecaster: Forecaster
    config: InputConfig
    example: str | None = None

    def facts(self) -> dict[str, Any]:
        """What can be forecast."""
        return {
            "codes": [
                {
                    "code": code,
                    "name": _title(code),
                    "unit": model.unit,
                    "display_unit": written_unit(model.unit),
                    "model": model_summary(model),
                }
                for code, model in self.forecaster.codes.items()
            ],
            "horizons_days": list(self.forecaster.horizons_days),
            "risks": [
                *(one.line.name for one in self.forecaster.lines),
                *self.forecaster.events,
            ],
            "example": self.example,
        }

    def forecast(self, content: bytes, *, horizons: Sequence[float]) -> dict[str, Any]:
        """The reply for a file.

        Args:
            content: CSV, or FHIR as JSON or NDJSON.
            horizons: Days ahead; none takes the forecaster's own.

        Raises:
            DataError: If the file cannot be read, or holds nothing usable.
            TooManyPatientsError: If it holds too many patients.
        """
        return forecast_patients(
            self.forecaster,
            content,
            kind=_kind_of(content),
            choose=_few,
            horizons_days=horizons,
            config=self.config,
            max_findings=_MOST_FINDINGS,
        )


def open_desk(forecaster: Path, *, mapping: Path | None) -> Desk:
    """A desk with all that it needs in memory, so that the first patient does not wait.

    Raises:
        MediMindError: If forecaster or mapping cannot be read, or a package is missing.
    """
    try:
        import pyarrow.csv  # noqa: F401
        from fhir.resources.R4B.observation import Observation  # noqa: F401
        from fhir.resources.R4B.patient import Patient  # noqa: F401
    except ImportError as error:
        raise MissingExtraError(error.name or "pyarrow", extra="forecast") from None
    config = InputConfig() if mapping is None else load_input_config(mapping)
    model = load_forecaster(forecaster)
    # One forecast, so that units and the like are in memory when the first patient comes.
    example: str | None = example_of(model)
    try:
        Desk(model, InputConfig()).forecast(example.encode(), horizons=())
    except DataError:  # such as codes of the user's own whose values look like placeholders
        example = None
    return Desk(model, config, example if config == InputConfig() else None)


def example_of(forecaster: Forecaster) -> str:
    """A long table of a made-up patient, whose values rise within the middle of the population."""
    codes = list(islice(forecaster.codes.items(), _EXAMPLE_CODES))
    gap = max(1, round(DAYS_A_YEAR * max(model.visit_gap_years for _, model in codes)))
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["patient", "time", "code", "value", "unit"])
    for visit in range(_EXAMPLE_VISITS):
        day = date(2020, 1, 15) + timedelta(days=visit * gap)
        for code, model in codes:
            middle = len(model.population) // 2
            low, high = model.population[middle - 1], model.population[middle + 1]
            value = low + (high - low) * visit / (_EXAMPLE_VISITS - 1)
            table.writerow(["example", day, code, f"{value:.3g}", model.unit])
    return text.getvalue()


def plain(error: MediMindError) -> str:
    """What a client is told: its options are those of the server."""
    return str(error).replace("--input YAML", "--forecast-input YAML at the server's start")


def _kind_of(content: bytes) -> str:
    """``fhir``, ``ndjson`` or ``csv``, told by what stands there; names of files are not sent.

    Raises:
        DataError: If it is empty, packed or binary.
    """
    start = content.removeprefix(b"\xef\xbb\xbf").lstrip()
    if not start:
        raise DataError("the file is empty", fix="Send a CSV table, or FHIR as JSON or NDJSON")
    if start.startswith(_BINARY):
        raise DataError(
            "this is no text",
            fix="Send a CSV table, or FHIR as JSON or NDJSON; Parquet is read by: "
            "medimind forecast predict",
        )
    if not start.startswith((b"{", b"[")):
        return "csv"
    first, _, rest = start.partition(b"\n")
    if rest.lstrip().startswith(b"{"):
        try:
            json.loads(first)
        except ValueError:
            return "fhir"
        return "ndjson"
    return "fhir"


def _few(records: Records) -> Records:
    if records.num_patients > MOST_PATIENTS:
        raise TooManyPatientsError(
            f"the file holds {records.num_patients} patients, and at most {MOST_PATIENTS} are "
            "forecast at a time",
            fix="For cohorts: medimind forecast predict",
        )
    return records


def _title(code: str) -> str:
    known = find_code(code)
    return known.short if known else code

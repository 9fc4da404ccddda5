"""Forecasts on disk: Parquet for machines, a JSON document per patient for people.

```
forecasts.parquet    a row per patient, code and horizon
risks.parquet        a row per patient, line or event, and horizon
validation.json      rows in, kept and left out, findings by kind
patients/NAME.json   a document per patient
```
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from medimind.errors import DataError, MissingExtraError
from medimind.forecasting.forecast import Categories

PATIENTS = "patients"
_RESERVED = re.compile(r"|CON|PRN|AUX|NUL|(COM|LPT)\d")
"""Names that are no files in Windows."""
FORECASTS = "forecasts.parquet"
RISKS = "risks.parquet"
VALIDATION = "validation.json"


def arrow_table(columns: Mapping[str, Any]) -> Any:
    """The columns as an Arrow table; texts that repeat as dictionaries.

    Raises:
        MissingExtraError: The package that writes Parquet is not installed.
    """
    try:
        import pyarrow as pa
    except ImportError:
        raise MissingExtraError("pyarrow", extra="forecast") from None
    arrays = {}
    for name, column in columns.items():
        if isinstance(column, Categories):
            texts = pa.array([str(text) for text in column.texts], pa.string())
            index = pa.array(column.index.astype("int32", copy=False))
            arrays[name] = pa.DictionaryArray.from_arrays(index, texts)
        else:
            arrays[name] = pa.array(column)
    return pa.table(arrays)


def write_documents(folder: Path, documents: Iterable[Mapping[str, Any]]) -> list[Path]:
    """A file per patient, named after the patient as far as file names allow.

    Raises:
        DataError: If they cannot be written.
    """
    paths = []
    try:
        (folder / PATIENTS).mkdir(parents=True, exist_ok=True)
        for document in documents:
            path = folder / PATIENTS / f"{file_name(str(document['patient']))}.json"
            path.write_text(document_text(document), encoding="utf-8")
            paths.append(path)
    except OSError as problem:
        raise DataError(f"cannot write ({problem})", where=str(folder)) from problem
    return paths


def document_text(document: Mapping[str, Any]) -> str:
    """The document as JSON text."""
    return json.dumps(document, ensure_ascii=False, indent=1, allow_nan=False) + "\n"


def file_name(patient: str) -> str:
    """A file name for a patient; distinct patients get distinct ones.

    Also where case makes no difference (macOS, Windows): only capitals stand for themselves, so
    that the files of ``a1`` and ``A1`` are two.
    """
    safe = re.sub(r"[^A-Za-z0-9_-]", "_", patient)[:60]
    if safe == patient == safe.upper() and not _RESERVED.fullmatch(safe):
        return safe
    return f"{safe}-{sha256(patient.encode()).hexdigest()[:10]}"

"""A whole cohort, from its file to Parquet, in parts of whole patients.

```
part of the file ─► rows ─► validation ─► records ─► forecasts, risks ─► row groups of Parquet
```

Parts are worked on by threads (numpy and Arrow let go of the interpreter's lock), and written in
their order. Memory holds a few parts, never the cohort.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from medimind.config.forecast import InputConfig
from medimind.errors import DataError
from medimind.forecasting.document import patient_documents
from medimind.forecasting.forecaster import Forecaster
from medimind.forecasting.outputs import FORECASTS, RISKS, VALIDATION, arrow_table, write_documents
from medimind.forecasting.predict import predict
from medimind.forecasting.records.findings import NOTHING, Validation
from medimind.forecasting.records.read import Work, checked, work_parts


@dataclass(frozen=True, slots=True, eq=False)
class CohortResult:
    """What was written.

    Attributes:
        num_patients: Patients.
        num_documents: Documents.
        validation: What was found in the records.
    """

    num_patients: int
    num_documents: int
    validation: Validation


@dataclass(frozen=True, slots=True, eq=False)
class _Done:
    forecasts: Any
    risks: Any
    documents: list[dict[str, Any]]
    num_patients: int
    validation: Validation


def predict_cohort(
    forecaster: Forecaster,
    path: Path,
    out: Path,
    *,
    config: InputConfig,
    horizons_days: Sequence[float] = (),
    strict: bool = False,
    max_documents: int = 2000,
    workers: int = 2,
    rows_a_part: int = 200_000,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> CohortResult:
    """Write ``forecasts.parquet``, ``risks.parquet`` and a document a patient into the folder.

    Args:
        forecaster: What was fitted.
        path: Records.
        out: Folder.
        config: What the columns of the records are.
        horizons_days: Horizons of values; none takes the forecaster's own.
        strict: Stop at anything that validation finds.
        max_documents: Beyond so many patients no more documents are written.
        workers: Threads.
        rows_a_part: Rows of the file that are worked on together.
        on_progress: Told the title, and rows done and in all.

    Raises:
        DataError: If records cannot be read or results cannot be written.
    """

    def one(work: Work, wants_documents: bool) -> _Done:
        records, validation = checked(work, config, strict=strict)
        forecasts, risks = predict(forecaster, records, horizons_days=horizons_days)
        documents = []
        if wants_documents:
            documents = list(patient_documents(forecaster, records, forecasts, risks))
        return _Done(
            arrow_table(forecasts.columns()),
            arrow_table(risks.columns()),
            documents,
            records.num_patients,
            validation,
        )

    def tasks() -> Iterator[Callable[[], _Done]]:
        for work in parts:
            # Parts are begun before earlier ones are counted: a part too many costs its documents.
            yield partial(one, work, counts.documents < max_documents)

    counts = _Counts()
    parts, num_rows = work_parts(path, config, rows_a_part=rows_a_part)
    with _Tables(out) as tables, ThreadPoolExecutor(workers) as pool:
        for done in _in_order(pool, tasks(), workers + 1):
            tables.write(done.forecasts, done.risks)
            documents = done.documents[: max(0, max_documents - counts.documents)]
            write_documents(out, documents)
            counts.documents += len(documents)
            counts.patients += done.num_patients
            counts.validation = counts.validation + done.validation
            if on_progress:
                on_progress("forecasting rows", min(counts.validation.rows_in, num_rows), num_rows)
    if on_progress:
        on_progress("forecasting rows", num_rows, num_rows)
    (out / VALIDATION).write_text(
        json.dumps(counts.validation.summary(), indent=1) + "\n", encoding="utf-8"
    )
    return CohortResult(counts.patients, counts.documents, counts.validation)


@dataclass(slots=True)
class _Counts:
    documents: int = 0
    patients: int = 0
    validation: Validation = NOTHING


def _in_order(
    pool: ThreadPoolExecutor, tasks: Iterable[Callable[[], _Done]], ahead: int
) -> Iterator[_Done]:
    """Results in the order of the tasks; so many are begun before the first is taken."""
    waiting: deque[Future[_Done]] = deque()
    for task in tasks:
        waiting.append(pool.submit(task))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


class _Tables:
    """Both Parquet files, opened with the first part."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.writers: list[Any] = []

    def __enter__(self) -> _Tables:
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self.writers:
            writer.close()

    def write(self, forecasts: Any, risks: Any) -> None:
        """Append row groups to both."""
        import pyarrow.parquet as pq

        try:
            if not self.writers:
                self.folder.mkdir(parents=True, exist_ok=True)
                self.writers = [
                    pq.ParquetWriter(self.folder / name, table.schema, compression="snappy")
                    for name, table in ((FORECASTS, forecasts), (RISKS, risks))
                ]
            for writer, table in zip(self.writers, (forecasts, risks)):
                writer.write_table(table)
        except OSError as problem:
            raise DataError(f"cannot write ({problem})", where=str(self.folder)) from problem

"""FHIR R4: Bundles, single resources and NDJSON as raw rows, checked by ``fhir.resources``.

Measurements are Observations, and components of Observations, that hold a quantity or an integer.
Coded and textual results are none and are passed over. Patients give sex, birthday and death.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from medimind.errors import DataError, MissingExtraError
from medimind.forecasting.records.columns import day_of
from medimind.forecasting.records.raw import MISSING, Names, RawRows, SourceProblem, Unread
from medimind.forecasting.records.table import Event

_LOINC = "http://loinc.org"
_NO_NUMBER = (
    "valueCodeableConcept", "valueString", "valueBoolean", "valueRange", "valueRatio",
    "valueSampledData", "valueTime", "valueDateTime", "valuePeriod",
)  # fmt: skip


def is_fhir(path: Path) -> bool:
    """Whether the name says so: ``.json``, ``.ndjson``, or a folder of them."""
    if path.is_dir():
        return any(path.glob("*.json")) or any(path.glob("*.ndjson"))
    return path.suffix.lower() in (".json", ".ndjson")


def read_fhir(path: Path) -> RawRows:
    """The measurements of a file, or of all ``.json`` and ``.ndjson`` files of a folder.

    Raises:
        DataError: If a file cannot be read or holds no FHIR.
    """
    reader = _Reader(str(path))
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in files:
        if file.suffix.lower() in (".json", ".ndjson"):
            is_ndjson = file.suffix.lower() == ".ndjson"
            try:
                with file.open("rb") as stream:
                    for resource in _resources(stream, is_ndjson, str(file), reader.problems):
                        reader.take(resource)
            except OSError as problem:
                raise DataError(f"the file cannot be read ({problem})", where=str(file)) from None
    return reader.rows()


def fhir_rows(content: bytes, *, is_ndjson: bool, where: str) -> RawRows:
    """The measurements of a Bundle, a resource or NDJSON that is in memory already.

    Raises:
        DataError: If it holds no FHIR.
    """
    reader = _Reader(where)
    for resource in _resources(BytesIO(content), is_ndjson, where, reader.problems):
        reader.take(resource)
    return reader.rows()


def _resources(
    stream: BinaryIO, is_ndjson: bool, where: str, problems: list[SourceProblem]
) -> Iterator[dict[str, Any]]:
    if is_ndjson:
        yield from _lines(stream, where, problems)
        return
    try:
        content = json.loads(stream.read().decode("utf-8"))
    except UnicodeDecodeError as problem:
        raise DataError(f"the file cannot be read ({problem})", where=where) from None
    except (ValueError, RecursionError) as problem:
        raise DataError(f"the file is not JSON ({problem})", where=where) from None
    if not isinstance(content, dict) or "resourceType" not in content:
        raise DataError("the file is no FHIR resource", where=where)
    yield from _unpacked(content)


def _lines(stream: BinaryIO, where: str, problems: list[SourceProblem]) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(stream, start=1):
        try:
            text = line.decode("utf-8")
        except UnicodeDecodeError as problem:
            raise DataError(f"the file cannot be read ({problem})", where=where) from None
        if not text.strip():
            continue
        try:
            resource = json.loads(text)
        except (ValueError, RecursionError) as problem:
            detail = f"{Path(where).name}, line {number}: {problem}"
            problems.append(SourceProblem("bad-json", number, "", "", detail, True))
            continue
        yield from _unpacked(resource)


def _unpacked(resource: Any) -> Iterator[dict[str, Any]]:
    if isinstance(resource, dict) and resource.get("resourceType") == "Bundle":
        for entry in resource.get("entry") or []:
            if isinstance(entry, dict) and isinstance(entry.get("resource"), dict):
                yield from _unpacked(entry["resource"])
    elif isinstance(resource, dict):
        yield resource


class _Reader:
    """Gathers rows; its columns grow resource by resource."""

    def __init__(self, where: str) -> None:
        self.where = where
        self.problems: list[SourceProblem] = []
        self.patients, self.codes, self.units, self.statuses = Names(), Names(), Names(), Names()
        self.columns: list[tuple[int, int, float, int, float, int, int, int]] = []
        self.sex: dict[int, str] = {}
        self.birth: dict[int, float] = {}
        self.death: dict[int, float] = {}
        self.number = 0

    def take(self, resource: dict[str, Any]) -> None:
        """Read one resource; those of other types are passed over."""
        kind = resource.get("resourceType")
        if kind not in ("Patient", "Observation"):
            return
        self.number += 1
        name = _subject(resource)
        problem = _invalid(resource, kind)
        if problem:
            # A field that is missing altogether has a finding of its own below.
            self._lose("bad-resource", name, problem)
        elif kind == "Patient":
            self._patient(self.patients.number(name), resource)
        else:
            self._observation(name, resource)

    def _lose(self, kind: str, patient: str, detail: str, code: str = "") -> None:
        self.problems.append(SourceProblem(kind, self.number, patient, code, detail, True))

    def _patient(self, place: int, resource: dict[str, Any]) -> None:
        self.sex[place] = str(resource.get("gender") or "")
        self.birth[place] = day_of(str(resource.get("birthDate") or ""))
        died = day_of(str(resource.get("deceasedDateTime") or ""))
        if np.isfinite(died):
            self.death[place] = died

    def _observation(self, name: str, resource: dict[str, Any]) -> None:
        if not name:
            self._lose("unknown-subject", "", str(resource.get("id", "")))
            return
        parts = [resource, *(resource.get("component") or [])]
        measured = [part for part in parts if "valueQuantity" in part or "valueInteger" in part]
        if not measured:
            absent = [part for part in parts if "dataAbsentReason" in part]
            if absent:
                self._lose(
                    "absent-data", name, _code(absent[0]["dataAbsentReason"]), _code_of(resource)
                )
            elif not any(key in part for part in parts for key in (*_NO_NUMBER, "hasMember")):
                self._lose("value-missing", name, "", _code_of(resource))
            return
        time, flags = _time(resource)
        status = self.statuses.number(str(resource.get("status")))
        for part in measured:
            value, unit, marks = _quantity(part)
            code = _code_of(part)
            self.columns.append(
                (
                    self.number,
                    self.patients.number(name),
                    time,
                    self.codes.number(code) if code else MISSING,
                    value,
                    self.units.number(unit) if unit else MISSING,
                    status,
                    flags | marks,
                )
            )

    def rows(self) -> RawRows:
        """All that was read."""
        columns = list(zip(*self.columns)) or [()] * 8
        row, patient, time, code, value, unit, status, flags = columns
        count = len(self.patients)
        birth = np.array([self.birth.get(place, np.nan) for place in range(count)])
        last = np.full(count, np.nan)
        np.fmax.at(last, np.array(patient, dtype=np.int64), np.array(time, dtype=np.float64))
        died = np.array([self.death.get(place, np.nan) for place in range(count)])
        events = {}
        if self.death:
            events["death"] = Event(np.where(np.isnan(died), last, died), ~np.isnan(died))
        sex = np.array([self.sex.get(place, "") for place in range(count)], dtype=object)
        return RawRows(
            where=self.where,
            row=np.array(row, dtype=np.int64),
            patients=np.array(self.patients.texts, dtype=object),
            patient=np.array(patient, dtype=np.int32),
            time=np.array(time, dtype=np.float64),
            is_dated=True,
            codes=self.codes.texts,
            code=np.array(code, dtype=np.int32),
            value=np.array(value, dtype=np.float64),
            units=self.units.texts,
            unit=np.array(unit, dtype=np.int32),
            statuses=self.statuses.texts,
            status=np.array(status, dtype=np.int32),
            unread=np.array(flags, dtype=np.int32),
            has_order=False,
            covariates={"sex": sex},
            events=events,
            birth_day=birth,
            problems=tuple(self.problems),
        )


def _invalid(resource: dict[str, Any], kind: str) -> str:
    """What ``fhir.resources`` finds wrong with a resource; "" if nothing."""
    try:
        from fhir.resources.R4B.observation import Observation
        from fhir.resources.R4B.patient import Patient
    except ImportError:
        raise MissingExtraError("fhir.resources", extra="forecast") from None
    from pydantic import ValidationError

    try:
        (Patient if kind == "Patient" else Observation).model_validate(resource)
    except ValidationError as problem:
        details = problem.errors()[0]
        return f"{'.'.join(map(str, details['loc']))}: {details['msg']}"
    return ""


def _subject(resource: dict[str, Any]) -> str:
    if resource.get("resourceType") == "Patient":
        return str(resource.get("id") or "")
    subject = resource.get("subject")
    reference = subject.get("reference") if isinstance(subject, dict) else None
    return str(reference or "").rpartition("/")[2].removeprefix("urn:uuid:")


def _code_of(part: dict[str, Any]) -> str:
    concept = part.get("code")
    return _code(concept) if isinstance(concept, dict) else ""


def _code(concept: dict[str, Any]) -> str:
    codings = [one for one in concept.get("coding") or [] if one.get("code")]
    loinc = [one for one in codings if one.get("system") == _LOINC]
    chosen = (loinc or codings or [{}])[0]
    return str(chosen.get("code") or concept.get("text") or "")


def _time(resource: dict[str, Any]) -> tuple[float, int]:
    period = resource.get("effectivePeriod") or {}
    text = (
        resource.get("effectiveDateTime")
        or resource.get("effectiveInstant")
        or period.get("start")
        or ""
    )
    day = day_of(str(text))
    if np.isfinite(day):
        return day, 0
    return np.nan, int(Unread.TIME_TEXT if text else Unread.TIME_MISSING)


def _quantity(part: dict[str, Any]) -> tuple[float, str, int]:
    if "valueInteger" in part:
        return float(part["valueInteger"]), "1", 0
    quantity = part["valueQuantity"]
    unit = str(quantity.get("code") or quantity.get("unit") or "")
    if quantity.get("comparator"):
        return np.nan, unit, int(Unread.VALUE_CENSORED)
    if quantity.get("value") is None:
        return np.nan, unit, int(Unread.VALUE_MISSING)
    return float(quantity["value"]), unit, 0

"""Where records of patients come from, and what each column means."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

from pydantic import Field, ValidationError, model_validator

from medimind.config.lines import read_yaml
from medimind.config.section import Section
from medimind.errors import ConfigError

TimeUnit = Literal["s", "min", "h", "d", "wk", "mo", "a"]
InputKind = Literal["auto", "long", "wide", "fhir", "meds"]
SectionT = TypeVar("SectionT", bound=Section)


class ValueColumn(Section):
    """What a column of a wide table measures.

    Attributes:
        code: LOINC code, a name MediMind knows such as ``creatinine``, or a name of your own.
        unit: Unit of the column, UCUM.
    """

    code: str = Field(min_length=1)
    unit: str = "1"


class EventColumns(Section):
    """Where a table says whether and when something happened to a patient.

    Attributes:
        time: Column with the time of the event, or of the last contact without it.
        status: Column that says which of the two.
        observed: Values of ``status`` that mean it happened.
        censored: Values that mean it did not; any other value is a finding.
    """

    time: str
    status: str
    observed: tuple[str | int | float, ...] = Field(default=(1,), min_length=1)
    censored: tuple[str | int | float, ...] = (0,)


class Limits(Section):
    """Lowest and highest value that a body can have."""

    low: float
    high: float

    @model_validator(mode="after")
    def _in_order(self) -> Limits:
        if not self.low < self.high:
            raise ValueError("low must be below high")
        return self


class InputConfig(Section):
    """How records are read.

    Attributes:
        kind: ``long`` (a row per measurement), ``wide`` (a row per visit), ``fhir`` (R4 Bundles or
            NDJSON), ``meds``; ``auto`` tells them apart by their names and columns.
        patient: Column that names the patient.
        time: Column with the time: a number in ``time_unit``, or an ISO 8601 date.
        time_unit: Unit of times that are numbers.
        code: Column with the code (long).
        value: Column with the value (long).
        unit: Column with the unit (long); it may be missing if ``units`` names them.
        status: Column with the status of an observation as FHIR names it (long), if there is one.
        values: Column -> what it measures (wide).
        covariates: Columns with facts that do not change within a patient.
        events: Name -> columns of an event.
        codes: Code in the source -> LOINC code, known name or name of your own.
        units: Code -> unit, where the source gives none.
        limits: Code -> limits, over those of MediMind's table.
        as_of: Dates after this day are findings; ``None`` takes today.
        min_visits: Patients with fewer visits are forecast from the population, and marked.
    """

    kind: InputKind = "auto"
    patient: str = "patient"
    time: str = "time"
    time_unit: TimeUnit = "d"
    code: str = "code"
    value: str = "value"
    unit: str = "unit"
    status: str = "status"
    values: dict[str, ValueColumn] = Field(default_factory=dict)
    covariates: tuple[str, ...] = ()
    events: dict[str, EventColumns] = Field(default_factory=dict)
    codes: dict[str, str] = Field(default_factory=dict)
    units: dict[str, str] = Field(default_factory=dict)
    limits: dict[str, Limits] = Field(default_factory=dict)
    as_of: date | None = None
    min_visits: int = Field(default=2, ge=1)

    @model_validator(mode="after")
    def _wide_names_values(self) -> InputConfig:
        if self.kind == "wide" and not self.values:
            raise ValueError("a wide table needs values: column -> {code, unit}")
        return self


def load_input_config(path: Path) -> InputConfig:
    """The mapping that a YAML file describes.

    Raises:
        ConfigError: Lists every error of the file at once, each with its line.
    """
    return load_section(path, InputConfig)


def load_section(path: Path, section: type[SectionT]) -> SectionT:
    """A YAML file as one validated section of a recipe.

    Raises:
        ConfigError: Lists every error of the file at once, each with its line.
    """
    lined = read_yaml(path)
    problems = [(line, message) for line, message in lined.problems]
    try:
        value = section.model_validate(lined.data)
    except ValidationError as error:
        for details in error.errors():
            keys = tuple(details["loc"])
            problems.append((lined.line_of(keys), _explain(details, keys, section)))
    else:
        if not problems:
            return value
    problems.sort()
    listing = "".join(f"\n  {path}:{line}: {message}" for line, message in problems)
    count = "one error" if len(problems) == 1 else f"{len(problems)} errors"
    raise ConfigError(f"the mapping {path.name} has {count}:{listing}")


def _section_at(section: type[Section], keys: tuple[str | int, ...]) -> type[Section]:
    """The section that lies at ``keys`` in another one, below lists and maps too."""
    for key in keys:
        field = section.model_fields.get(str(key))
        if field is not None:
            section = next(_sections(field.annotation), section)
    return section


def _sections(annotation: Any) -> Iterator[type[Section]]:
    if isinstance(annotation, type) and issubclass(annotation, Section):
        yield annotation
    for inner in get_args(annotation):
        yield from _sections(inner)


def _explain(details: Any, keys: tuple[str | int, ...], section: type[Section]) -> str:
    name = ".".join(map(str, keys)) or "the mapping"
    if details["type"] == "extra_forbidden":
        known = ", ".join(_section_at(section, keys[:-1]).model_fields)
        return f"unknown key '{name}'; known keys: {known}"
    if details["type"] == "missing":
        return f"'{name}' is missing"
    message = details["msg"].removeprefix("Value error, ")
    return f"'{name}': {message[:1].lower()}{message[1:]}"

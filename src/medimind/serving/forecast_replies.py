"""What ``/api/forecast`` sends back; the document is `medimind.forecasting.document`'s."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel


class ModelSummary(BaseModel):
    """What a reader should know of the model of one code; errors are in the code's unit."""

    method: str
    error: float | None
    error_last_value: float | None
    skill_percent: float | None
    num_patients: int
    calibration_patients: int
    calibration_errors: int
    # Shares of other patients' ``visits`` and ``last_visits``; none of forecasters of old.
    interval_90_held_percent: dict[str, float | None] = {}


class ForecastCode(BaseModel):
    """A code that can be forecast."""

    code: str
    name: str
    unit: str
    display_unit: str
    model: ModelSummary


class Forecaster(BaseModel):
    """What can be forecast; ``example`` is a file of a made-up patient."""

    codes: list[ForecastCode]
    horizons_days: list[float]
    risks: list[str]
    example: str | None
    max_body_bytes: int
    ready: bool


class Measurement(BaseModel):
    """A value that was measured."""

    time_days: float
    value: float


class Evidence(BaseModel):
    """Whether there is enough to go by, and why not."""

    is_sufficient: bool
    reasons: list[str]
    num_measurements: int


class ForecastRow(BaseModel):
    """A value at a horizon; ``intervals``: percent -> lower and upper end."""

    horizon_days: float
    time_days: float
    value: float | None
    intervals: dict[str, tuple[float | None, float | None]]
    evidence: str


class Line(BaseModel):
    """A line that matters."""

    name: str
    value: float
    side: Literal["below", "at_or_above"]


class CourseRow(BaseModel):
    """Where similar patients stood: lower quartile, median, upper quartile."""

    horizon_days: float
    quartiles: list[float | None]


class Neighbours(BaseModel):
    """How similar patients went on."""

    num_patients: int
    course: list[CourseRow]


class CodeForecast(BaseModel):
    """All that is said of one code."""

    code: str
    name: str
    unit: str
    display_unit: str
    worse: str
    history: list[Measurement]
    evidence: Evidence
    forecasts: list[ForecastRow]
    lines: list[Line]
    model: ModelSummary
    neighbours: Neighbours | None


class RiskRow(BaseModel):
    """Risk of lying beyond the line at a horizon, and of having crossed it, or the event, by it."""

    horizon_days: float
    at_percent: float | None
    by_percent: float | None


class Risk(BaseModel):
    """A line that may be crossed, or an event; what only a line has is left out of an event."""

    name: str
    kind: Literal["line", "event"]
    code: str | None = None
    value: float | None = None
    unit: str | None = None
    display_unit: str | None = None
    side: Literal["below", "at_or_above"] | None = None
    confirm_days: float | None = None
    state: str | None = None
    calibration: dict[str, float | int | bool | None]
    horizons: list[RiskRow]


class Document(BaseModel):
    """A patient's forecast."""

    version: Literal[1]
    patient: str
    last_visit_days: float
    codes: list[CodeForecast]
    risks: list[Risk]


class Narrative(BaseModel):
    """The forecast in words, every claim traced; ``refused`` texts of a model were not."""

    text: str
    source: Literal["model", "template"]
    refused: int


class PatientForecast(BaseModel):
    """One patient; ``first_day`` is the date of day 0, where the records have dates."""

    document: Document
    narrative: Narrative
    first_day: str | None


class RecordFinding(BaseModel):
    """Something wrong with the records; ``row`` is 0 where it belongs to no row."""

    kind: str
    row: int
    patient: str
    code: str
    found: str
    fix: str
    left_out: bool


class RecordCounts(BaseModel):
    """What was read: kind -> rows left out, kind -> findings."""

    rows_in: int
    rows_kept: int
    left_out: dict[str, int]
    found: dict[str, int]
    patients: int


class ForecastReply(BaseModel):
    """All that is said of a file; the first 100 findings."""

    patients: list[PatientForecast]
    validation: RecordCounts
    findings: list[RecordFinding]
    unused_codes: list[str]
    intended_use: str

"""What all routes of one server share."""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import Request

from medimind.serving.about import About
from medimind.serving.admission import Admission
from medimind.serving.audit import AuditLog
from medimind.serving.backend import Backend
from medimind.serving.forecast_process import ForecastProcess
from medimind.serving.limits import Limits
from medimind.serving.metrics import Metrics
from medimind.serving.report import Report


@dataclass(frozen=True, slots=True)
class Serving:
    """The parts of a running server.

    Attributes:
        backend: What answers.
        limits: All bounds.
        admission: The queue.
        metrics: What is counted.
        about: What is known of the model.
        report: The run's report; ``None`` where there is none.
        audit: The log; ``None`` where none is kept.
        forecaster: What forecasts; ``None`` where there is none.
    """

    backend: Backend
    limits: Limits
    admission: Admission
    metrics: Metrics
    about: About
    report: Report | None = None
    audit: AuditLog | None = None
    forecaster: ForecastProcess | None = None


async def get_serving(request: Request) -> Serving:
    """The parts, for a route; no thread is needed for it, as a plain function would be given."""
    return request.app.state.serving

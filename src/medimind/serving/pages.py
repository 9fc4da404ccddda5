"""Everything but the chat: the model and its files, the report, the server's health."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, FastAPI, Request, Response
from pydantic import BaseModel
from starlette.responses import FileResponse, JSONResponse

from medimind import __version__
from medimind.serving.about import AboutReply, EngineFacts, LimitFacts
from medimind.serving.failures import ServingError, engine_unavailable
from medimind.serving.guard import TOKEN
from medimind.serving.metrics import CONTENT_TYPE
from medimind.serving.replies import ErrorReply
from medimind.serving.report import TICKET_SECONDS, Report
from medimind.serving.serving import Serving, get_serving

open_router = APIRouter(tags=["The app"])
closed = APIRouter(tags=["The app"], dependencies=[TOKEN])

_Serving = Annotated[Serving, Depends(get_serving)]
_NOT_FOUND: dict[int | str, dict[str, Any]] = {404: {"model": ErrorReply}}
_NOT_READY: dict[int | str, dict[str, Any]] = {503: {"model": ErrorReply}}
_FILE: dict[int | str, dict[str, Any]] = {
    **_NOT_FOUND,
    200: {"content": {"application/octet-stream": {}}},
    206: {"description": "The part that was asked for."},
    304: {"description": "The client's copy is this one."},
    416: {"description": "The file has no such part."},
}


class Status(BaseModel):
    """How the server is."""

    status: str = "ok"


class Ticket(BaseModel):
    """An address that opens once."""

    url: str
    expires_in: int


@open_router.get("/healthz")
async def tell_health() -> Status:
    """Answers while the process lives."""
    return Status()


@open_router.get("/readyz", responses=_NOT_READY)
async def tell_readiness(serving: _Serving) -> Status:
    """Answers with 200 while chats are answered."""
    if not serving.backend.is_ready:
        raise engine_unavailable("the engine is not ready")
    return Status()


@closed.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
async def tell_metrics(serving: _Serving) -> Response:
    """For Prometheus."""
    return Response(serving.metrics.text(), media_type=CONTENT_TYPE)


@closed.get("/api/about")
async def tell_about(serving: _Serving) -> AboutReply:
    """What is known of the model."""
    limits = serving.limits
    return AboutReply(
        version=__version__,
        model=serving.about.model,
        adapter=serving.about.adapter,
        variants=list(serving.backend.variants),
        engine=EngineFacts(kind=serving.backend.kind, ready=serving.backend.is_ready),
        limits=LimitFacts(
            max_tokens=limits.max_tokens,
            max_body_bytes=limits.body_bytes,
            max_messages=limits.messages,
            max_forecast_bytes=limits.forecast_bytes,
        ),
        device_files=list(await serving.about.files.listed()),
        chat_template=serving.about.chat_template,
        report=serving.report is not None,
        forecast=serving.forecaster is not None,
    )


@closed.get("/api/report", response_class=Response, responses=_NOT_FOUND)
async def show_report(serving: _Serving) -> FileResponse:
    """The run's before/after report, a page."""
    return _report(serving).page()


@closed.get("/api/report.json", response_class=Response, responses=_NOT_FOUND)
async def show_report_figures(serving: _Serving) -> FileResponse:
    """The same report as JSON."""
    return _report(serving).figures()


@closed.post("/api/report/ticket", responses=_NOT_FOUND)
async def give_ticket(serving: _Serving) -> Ticket:
    """An address under which the page opens once, without a token."""
    ticket = _report(serving).new_ticket()
    return Ticket(url=f"/report/{ticket}", expires_in=TICKET_SECONDS)


@open_router.get("/report/{ticket}", response_class=Response, responses=_NOT_FOUND)
async def open_report(ticket: str, serving: _Serving) -> FileResponse:
    """The report's page, for a ticket."""
    return _report(serving).page_by(ticket)


@closed.head("/models/{name}", include_in_schema=False)
@closed.get("/models/{name}", response_class=Response, responses=_FILE)
async def fetch_file(name: str, request: Request, serving: _Serving) -> Response:
    """A file for answering on the device; ``Range`` resumes a download."""
    return await serving.about.files.response(name, request)


@closed.get("/api/openapi.json", include_in_schema=False)
async def show_openapi(request: Request) -> JSONResponse:
    """The OpenAPI document."""
    return JSONResponse(request.app.openapi())


def offer_authority(app: FastAPI, certificate: Path) -> None:
    """Let phones fetch the certificate of the authority that they are to trust."""

    async def fetch_authority() -> FileResponse:
        return FileResponse(certificate, media_type="application/x-x509-ca-cert")

    app.add_api_route("/ca.crt", fetch_authority, include_in_schema=False)


def _report(serving: Serving) -> Report:
    if serving.report is None:
        raise ServingError(404, "the server was started without a run's report", code="not_found")
    return serving.report

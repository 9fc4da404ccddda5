"""``/api/forecast``: a patient's records in; the forecast, its account and the findings out."""

from __future__ import annotations

import json
import time
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from medimind.serving.audit import hash_bytes
from medimind.serving.failures import ServingError, engine_unavailable
from medimind.serving.forecast_account import write_account
from medimind.serving.forecast_process import ForecastProcess
from medimind.serving.forecast_replies import Forecaster, ForecastReply
from medimind.serving.guard import FORECASTS, TOKEN
from medimind.serving.hang_up import CLIENT_CLOSED_REQUEST, while_connected
from medimind.serving.replies import ErrorReply
from medimind.serving.serving import Serving, get_serving

router = APIRouter(tags=["Forecasts"], dependencies=[TOKEN])

_Serving = Annotated[Serving, Depends(get_serving)]
_Days = Annotated[float, Query(gt=0, le=36525, allow_inf_nan=False)]
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply} for status in (400, 404, 413, 429, 502, 503)
}
_TABLE = "patient,time,code,value,unit\nA17,2024-03-01,98979-8,71,mL/min/{1.73_m2}\n"
_BODY = {
    "requestBody": {
        "required": True,
        "description": "The file as it is; what it is, is told by its content.",
        "content": {
            "text/csv": {"schema": {"type": "string"}, "example": _TABLE},
            "application/fhir+json": {"schema": {"type": "object"}},
            "application/x-ndjson": {"schema": {"type": "string"}},
        },
    }
}


@router.get(FORECASTS, responses={404: {"model": ErrorReply}})
async def tell_forecaster(serving: _Serving) -> Forecaster:
    """What can be forecast here."""
    process = _process(serving)
    return Forecaster(
        **process.facts,
        max_body_bytes=serving.limits.forecast_bytes,
        ready=process.is_ready,
    )


@router.post(FORECASTS, response_model=ForecastReply, responses=_ERRORS, openapi_extra=_BODY)
async def make_forecast(
    request: Request,
    serving: _Serving,
    horizon: Annotated[
        list[_Days], Query(max_length=16, description="Days ahead, instead of the forecaster's.")
    ] = [],  # noqa: B006  # read only
    account: Annotated[
        Literal["template", "model"],
        Query(description="Who writes the accounts; every claim of theirs is traced."),
    ] = "template",
) -> Response:
    """Forecasts for a file's patients, accounts in words, and what validation found."""
    process = _process(serving)
    if not process.is_ready:
        raise engine_unavailable("the forecaster is being started again")
    place = process.admission.enter()
    outcome, records, reply = "hung_up", b"", b""
    arrived = time.monotonic()
    try:
        records = await request.body()
        made = await while_connected(request, process.forecast(records, horizons=horizon))
        place.leave()
        if made is not None and account == "model":
            made = await while_connected(request, _by_model(serving, made))
        if made is None:
            return Response(status_code=CLIENT_CLOSED_REQUEST)
        outcome, reply = "forecast", made
        return Response(reply, media_type="application/json")
    except ClientDisconnect:  # before its file was here
        return Response(status_code=CLIENT_CLOSED_REQUEST)
    except (ServingError, HTTPException) as error:
        outcome = error.code if isinstance(error, ServingError) else "body_too_large"
        raise
    finally:
        place.leave()
        serving.metrics.forecasts.labels(outcome).inc()
        serving.metrics.forecast_seconds.observe(time.monotonic() - arrived)
        if serving.audit is not None:
            serving.audit.record(
                who=request.state.who,
                forecast=True,
                records_sha256=hash_bytes(records),
                reply_sha256=hash_bytes(reply),
                outcome=outcome,
            )


async def _by_model(serving: Serving, reply: bytes) -> bytes:
    """The reply with accounts by the model."""
    told = json.loads(reply)
    told["patients"] = [await write_account(serving, one) for one in told["patients"]]
    return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode()


def _process(serving: Serving) -> ForecastProcess:
    if serving.forecaster is None:
        raise ServingError(
            404,
            "this server has no forecaster; start it with --forecaster FOLDER",
            code="not_found",
        )
    return serving.forecaster

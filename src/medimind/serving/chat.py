"""``/v1``: models and chats, in OpenAI's form."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request, Response
from starlette.responses import StreamingResponse
from starlette.types import Receive, Scope, Send

from medimind.serving.exchange import Exchange
from medimind.serving.failures import engine_unavailable
from medimind.serving.guard import TOKEN
from medimind.serving.hang_up import CLIENT_CLOSED_REQUEST, while_connected
from medimind.serving.messages import ChatRequest, read_request
from medimind.serving.replies import ChatCompletion, ErrorReply, ModelEntry, ModelList
from medimind.serving.serving import Serving, get_serving

router = APIRouter(prefix="/v1", tags=["OpenAI-compatible"], dependencies=[TOKEN])

_Serving = Annotated[Serving, Depends(get_serving)]
_ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorReply} for status in (400, 404, 413, 429, 502, 503)
}
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"content": {"text/event-stream": {"schema": {"type": "string"}}}}
}


@router.get("/models")
async def list_models(serving: _Serving) -> ModelList:
    """The models that can be asked."""
    return ModelList(data=[ModelEntry(id=one) for one in reversed(serving.backend.variants)])


@router.post("/chat/completions", response_model=ChatCompletion, responses={**_ERRORS, **_STREAM})
async def complete_chat(body: ChatRequest, request: Request, serving: _Serving) -> Any:
    """The answer to a chat, whole or as a stream of events."""
    ask = read_request(body, variants=serving.backend.variants, limits=serving.limits)
    if not serving.backend.is_ready:
        raise engine_unavailable("the engine is not ready")
    place = serving.admission.enter()
    try:
        prepared = await serving.backend.prepare(ask)
    except BaseException:  # a hang-up arrives as CancelledError
        place.leave()
        raise
    exchange = Exchange(serving, place=place, ask=ask, prepared=prepared, who=request.state.who)
    if body.stream:
        options = body.stream_options
        return _EventStream(exchange, with_usage=options is not None and options.include_usage)
    try:
        answer = await while_connected(request, exchange.whole())
    finally:
        exchange.close()
    return Response(status_code=CLIENT_CLOSED_REQUEST) if answer is None else answer


class _EventStream(StreamingResponse):
    """A stream whose place is given back however it ends, even before its first event."""

    media_type = "text/event-stream"

    def __init__(self, exchange: Exchange, *, with_usage: bool) -> None:
        headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
        super().__init__(exchange.events(with_usage=with_usage), headers=headers)
        self._exchange = exchange

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:
            self._exchange.close()

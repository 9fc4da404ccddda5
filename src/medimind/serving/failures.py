"""Errors as OpenAI's clients expect them, whoever raises them."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

_TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    421: "permission_error",
    429: "rate_limit_error",
    500: "server_error",
    502: "server_error",
    503: "service_unavailable",
    504: "service_unavailable",
}
_SHOWN_PROBLEMS = 3


class ServingError(Exception):
    """A request that gets no answer.

    Args:
        status: HTTP status.
        message: What happened, for a person.
        code: What happened, for a program.
        param: The field of the request that is to blame.
        retry_after: Seconds after which the same request may succeed.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str,
        param: str | None = None,
        retry_after: int | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param
        self.retry_after = retry_after


def engine_unavailable(message: str, *, code: str = "engine_unavailable") -> ServingError:
    """The engine cannot answer now, but may soon."""
    return ServingError(503, message, code=code, retry_after=2)


def error_body(error: ServingError) -> dict[str, Any]:
    """The document that tells of an error."""
    kind = _TYPES.get(error.status, "invalid_request_error")
    detail = {"message": error.message, "type": kind, "param": error.param, "code": error.code}
    return {"error": detail}


def error_response(
    error: ServingError, *, headers: Mapping[str, str] | None = None
) -> JSONResponse:
    """The reply that tells of an error."""
    all_headers = dict(headers or {})
    if error.retry_after is not None:
        all_headers["Retry-After"] = str(error.retry_after)
    return JSONResponse(error_body(error), status_code=error.status, headers=all_headers)


def handle_failures(app: FastAPI) -> None:
    """Make every error of an app leave it in OpenAI's form."""
    app.add_exception_handler(ServingError, _of_serving)
    app.add_exception_handler(RequestValidationError, _of_validation)
    app.add_exception_handler(HTTPException, _of_http)
    app.add_exception_handler(Exception, _of_bug)


async def _of_serving(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, ServingError):
        raise error
    return error_response(error)


async def _of_validation(_: Request, error: Exception) -> JSONResponse:
    """Names what is wrong; never repeats what was sent, which may be a patient's."""
    if not isinstance(error, RequestValidationError):
        raise error
    problems = error.errors()
    told = [f"{_place(one['loc'])}: {one['msg']}" for one in problems[:_SHOWN_PROBLEMS]]
    more = len(problems) - _SHOWN_PROBLEMS
    message = "; ".join(told) + (f"; and {more} more" if more > 0 else "")
    param = _place(problems[0]["loc"]) if problems else None
    return error_response(ServingError(400, message, code="invalid_value", param=param))


def _place(location: tuple[Any, ...]) -> str:
    parts = [str(part)[:64] for part in location[1:]]
    return ".".join(parts).encode("ascii", "replace").decode() or "body"


async def _of_http(_: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    status = HTTPStatus(error.status_code)
    code = "body_too_large" if status == 413 else status.phrase.lower().replace(" ", "_")
    message = f"{error.detail or status.phrase}"
    return error_response(ServingError(status, message, code=code), headers=error.headers)


async def _of_bug(_: Request, __: Exception) -> JSONResponse:
    return error_response(ServingError(500, "this is a bug of the server's", code="bug"))

"""Errors as every client understands them: one body that holds what OpenAI, Replicate, A1111 and people look for."""

from __future__ import annotations

import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from laur.core.errors import BusyError, LaurError, LimitError, UnavailableError
from laur.serve.job import Failure

LOG = logging.getLogger(__name__)


class ProblemError(BaseModel):
    """As OpenAI's clients read it."""

    message: str
    type: str
    param: str | None = None
    code: str | None = None


class Problem(BaseModel):
    """Why a request was not fulfilled."""

    detail: str = Field(description="One line: what, the limit, the remedy.")
    title: str = Field(description="The kind of error.")
    status: int
    error: ProblemError


_TEXT = {
    400: "The request cannot be read",
    404: "Nothing of that name",
    405: "No such method",
    409: "Not in this state, or no room at present",
    413: "Larger than this server takes",
    422: "A value is outside what can be drawn",
    429: "The queue is full; try again after Retry-After seconds",
    500: "The picture could not be drawn",
    501: "Not offered by this server",
    503: "No worker or queue at present",
    504: "Not finished in time",
    507: "Results cannot be stored at present",
}


def responses(*codes: int) -> dict[int | str, dict[str, Any]]:
    """For a route's description: what it may answer besides success; those that any may answer are added."""
    wanted = sorted({*codes, 400, 405, 413, 422, 503})
    return {code: {"model": Problem, "description": _TEXT[code]} for code in wanted}


def problem(status: int, detail: str, kind: str, headers: dict[str, str] | None = None) -> JSONResponse:
    """The answer for an error."""
    body = Problem(detail=detail, title=kind, status=status, error=ProblemError(message=detail, type=kind, code=kind))
    return JSONResponse(body.model_dump(), status, headers)


def of_failure(failure: Failure) -> JSONResponse:
    """The answer for a job that failed."""
    return problem(failure.status, failure.message, failure.kind)


def install(app: FastAPI) -> None:
    """Make the application answer all errors in this way."""

    async def known(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, LaurError)
        later = isinstance(error, BusyError | LimitError | UnavailableError)
        headers = {"Retry-After": str(error.retry_after)} if later else None
        if headers and isinstance(error, LimitError):
            headers["X-Should-Retry"] = "false"  # what OpenAI's packages would else do at once, twice
        return problem(error.http_status, str(error), type(error).__name__, headers)

    async def invalid(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, RequestValidationError)
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"] if part != "body") or "the body"
        status = 400 if first["type"] in {"json_invalid", "missing_body"} else 422
        return problem(status, f"{place[:200]}: {str(first['msg'])[:300]}", "RequestError")

    async def plain(request: Request, error: Exception) -> JSONResponse:
        assert isinstance(error, HTTPException)
        return problem(error.status_code, str(error.detail), "RequestError", dict(error.headers or {}))

    async def unexpected(request: Request, error: Exception) -> JSONResponse:
        LOG.error("an unexpected fault in %s %s", request.method, request.url.path, exc_info=error)
        return problem(500, "an unexpected fault; the server's log has the details", "InternalError")

    app.add_exception_handler(LaurError, known)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, plain)
    app.add_exception_handler(Exception, unexpected)

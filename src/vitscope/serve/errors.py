"""Every answer that is no success: a status and one line, as JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping
from http import HTTPStatus

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.responses import Response

from vitscope.errors import FormatError, PixelsError, VitscopeError


class RefusedError(Exception):
    """A request that is not served: the status and the line of its answer."""

    def __init__(self, status: int, line: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(line)
        self.status = status
        self.headers = dict(headers or {})


def refusal(status: int, line: str, headers: Mapping[str, str] | None = None) -> Response:
    """The answer {"error": line}."""
    content = json.dumps({"error": " ".join(line.split())}, ensure_ascii=False)
    return Response(content, status, {**(headers or {})}, "application/json")


def status_of(error: VitscopeError) -> int:
    """The status that says what kind of failure it is."""
    if isinstance(error, PixelsError):
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    if isinstance(error, FormatError):
        return HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    return HTTPStatus.UNPROCESSABLE_ENTITY


def answer_errors(app: FastAPI, headers: Mapping[str, str]) -> None:
    """Make every failure of `app` an answer of this form.

    Args:
        app: the application.
        headers: of the one answer that no middleware sees, to what is nobody's mistake but the server's.
    """

    @app.exception_handler(RefusedError)
    async def refused(request: Request, error: RefusedError) -> Response:
        return refusal(error.status, str(error), error.headers)

    @app.exception_handler(VitscopeError)
    async def failed(request: Request, error: VitscopeError) -> Response:
        return refusal(status_of(error), str(error))

    @app.exception_handler(HTTPException)
    async def by_the_framework(request: Request, error: HTTPException) -> Response:
        return refusal(error.status_code, _line(request, error), error.headers)

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        first = error.errors()[0]
        return refusal(HTTPStatus.UNPROCESSABLE_ENTITY, f"{'.'.join(map(str, first['loc']))}: {first['msg']}")

    @app.exception_handler(ClientDisconnect)
    async def gone(request: Request, error: ClientDisconnect) -> Response:
        return refusal(HTTPStatus.BAD_REQUEST, "the body ended before its end")  # which nobody hears

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return refusal(
            HTTPStatus.INTERNAL_SERVER_ERROR, "the server failed on this request; its log says more", headers
        )


def _line(request: Request, error: HTTPException) -> str:
    if error.status_code == HTTPStatus.NOT_FOUND:
        return "there is nothing at this address; GET /api/openapi.json lists what there is"
    if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
        return f"{request.method} is not for this address; GET /api/openapi.json says what is"
    return str(error.detail)

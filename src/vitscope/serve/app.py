"""The application: one page, and an API for it and for programs."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from importlib.metadata import version
from typing import Any

from fastapi import FastAPI, Request
from starlette.responses import HTMLResponse, Response

from vitscope.errors import VitscopeError
from vitscope.explainer import Explainer
from vitscope.serve import schemas
from vitscope.serve.body import BoundedBody
from vitscope.serve.errors import RefusedError, answer_errors
from vitscope.serve.guard import HEADERS, Guard, Hosts
from vitscope.serve.job import Job, Snapshot, State
from vitscope.serve.limits import Limits
from vitscope.serve.page import server_page
from vitscope.serve.server import Server


def create_app(
    explainers: Mapping[str, Explainer],
    limits: Limits | None = None,
    page: str | None = None,
    *,
    hosts: Hosts | None = None,
    batch_size: int = 8,
) -> FastAPI:
    """The application, for uvicorn or another ASGI server; its worker runs between startup and shutdown.

    Args:
        explainers: the models by the names under which clients know them, at least one.
        limits: None takes the default ones.
        page: the HTML of `GET /`; None takes the viewer with its form.
        hosts: the names under which it may be asked; None takes the loopback's.
        batch_size: pictures in one pass.

    Raises:
        VitscopeError: no model.
    """
    if not explainers:
        raise VitscopeError("there is no model to serve; name at least one")
    limits = limits or Limits()
    server = Server(explainers, limits, batch_size)
    app = FastAPI(
        title="vitscope",
        description='Shows where and how a vision transformer looks. Every failure is {"error": one line}.',
        version=version("vitscope"),
        lifespan=server.running,
        openapi_url="/api/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        responses={"4XX": {"model": schemas.ErrorBody}, "5XX": {"model": schemas.ErrorBody}},
    )
    app.state.server = server
    answer_errors(app, HEADERS)
    app.add_middleware(BoundedBody, most=limits.body_bytes, seconds=limits.body_seconds)
    app.add_middleware(Guard, hosts=hosts or Hosts())
    _add_page(app, server_page() if page is None else page)
    _add_facts(app, server)
    _add_jobs(app, server)
    return app


def _add_page(app: FastAPI, page: str) -> None:
    @app.get("/", response_class=HTMLResponse, summary="The page")
    async def index() -> HTMLResponse:
        return HTMLResponse(page)


def _add_facts(app: FastAPI, server: Server) -> None:
    @app.get("/api/models", summary="The models that are loaded, and what each can be asked")
    async def models() -> schemas.Models:
        return server.models

    @app.get("/api/limits", summary="What a request may take")
    async def limits() -> schemas.LimitsInfo:
        return server.limits

    @app.get("/api/status", summary="What the server is doing")
    async def status() -> schemas.Status:
        jobs = server.jobs
        passes = {str(size): count for size, count in sorted(jobs.passes.items())}
        return schemas.Status(**jobs.standing(), ended=dict(jobs.counted), passes=passes)


def _add_jobs(app: FastAPI, server: Server) -> None:
    body = {"requestBody": schemas.form(server.limits)}

    @app.post(
        "/api/jobs",
        status_code=HTTPStatus.ACCEPTED,
        openapi_extra=body,
        summary="Have pictures explained: a job to come back for",
        responses=_lines({400: "no form", 408: "too slow", 413: "too large", 415: "no pictures", 422: "asked wrongly"})
        | {429: {"model": schemas.ErrorBody, "description": "The queue is full", "headers": _RETRY_AFTER}},
    )
    async def submit(request: Request) -> schemas.JobInfo:
        job = await server.submit(request)
        return _info(server.look(job.id))

    @app.get("/api/jobs/{key}", summary="How a job stands", responses=_lines({404: "never was", 410: "is gone"}))
    async def look(key: str) -> schemas.JobInfo:
        return _info(server.look(key))

    @app.get(
        "/api/jobs/{key}/result",
        summary="What a job gave",
        response_model=schemas.Result,
        responses=_lines({404: "never was", 409: "has not ended", 410: "is gone, or took too long", 422: "failed"}),
    )
    async def result(key: str) -> Response:
        seen = server.look(key)
        if not seen.state.final:
            raise RefusedError(HTTPStatus.CONFLICT, f"the job is {seen.state.value}; ask again when it is done")
        return _answer(seen, HTTPStatus.GONE)

    @app.delete(
        "/api/jobs/{key}",
        summary="End a job, or forget one that has ended",
        responses=_lines({404: "never was", 410: "is gone"}),
    )
    async def cancel(key: str) -> schemas.JobInfo:
        return _info(server.cancel(key))

    @app.post(
        "/api/explain",
        openapi_extra=body,
        summary="Have pictures explained, and wait for it",
        response_model=schemas.Result,
        responses=_lines(
            {400: "no form", 408: "too slow", 413: "too large", 415: "no pictures", 422: "asked wrongly, or failed"}
        )
        | {429: {"model": schemas.ErrorBody, "description": "The queue is full", "headers": _RETRY_AFTER}}
        | _lines({504: "took too long"}),
    )
    async def explain(request: Request) -> Response:
        job = await server.submit(request)
        await server.wait_for(request, job)
        server.jobs.drop(job.id)
        return _answer(job, HTTPStatus.GATEWAY_TIMEOUT)


_RETRY_AFTER = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}


def _lines(descriptions: Mapping[int, str]) -> dict[int | str, dict[str, Any]]:
    return {
        status: {"model": schemas.ErrorBody, "description": text[0].upper() + text[1:]}
        for status, text in descriptions.items()
    }


def _answer(seen: Snapshot | Job, expired: HTTPStatus) -> Response:
    """The result of a job that has ended, or why there is none; `expired` is the status of one that took too long."""
    if seen.state is State.DONE:
        return Response(seen.result, media_type="application/json")
    if seen.state is State.EXPIRED:
        raise RefusedError(expired, seen.error)
    if seen.state is State.CANCELLED:
        raise RefusedError(HTTPStatus.GONE, seen.error)
    raise RefusedError(HTTPStatus.INTERNAL_SERVER_ERROR if seen.fault else HTTPStatus.UNPROCESSABLE_ENTITY, seen.error)


def _info(seen: Snapshot) -> schemas.JobInfo:
    told = seen.progress
    return schemas.JobInfo(
        id=seen.id,
        model=seen.model,
        pictures=seen.pictures,
        state=seen.state,
        ahead=seen.ahead,
        progress=None if told is None else schemas.ProgressInfo(method=told.method, done=told.done, total=told.total),
        error=seen.error or None,
    )

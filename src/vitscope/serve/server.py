"""What the routes share: the models, the queue, and the worker that empties it.

Requests are read by the event loop and decoded by few threads; explanations are made by one `Worker`.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from http import HTTPStatus

from fastapi import FastAPI, Request
from python_multipart.exceptions import FormParserError
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from vitscope.explainer import Explainer
from vitscope.methods import as_methods, list_methods
from vitscope.serve import schemas
from vitscope.serve.answers import Answerer
from vitscope.serve.errors import RefusedError
from vitscope.serve.form import FIELD_BYTES, FILES, TEXTS, order_of, read_form
from vitscope.serve.job import ClosedError, FullError, GoneError, Job, Snapshot, UnknownError
from vitscope.serve.jobs import Jobs
from vitscope.serve.limits import Limits
from vitscope.serve.orders import default_methods
from vitscope.serve.worker import Worker

READERS = 2
"""Requests whose pictures are decoded at the same time: a picture of 50 megapixels takes up to 1.3 GB for that."""

LOOK = 0.25
"""Seconds between looks whether a client that waits for its answer is still there."""

PATIENCE = 10.0
"""Seconds that a pass which cannot be stopped has to end, when the server stops."""

RETRY = 2
"""Seconds after which one who found the queue full may ask again."""


class Server:
    """What the routes share: the models, the queue, and its worker."""

    def __init__(self, explainers: Mapping[str, Explainer], limits: Limits, batch_size: int) -> None:
        """Nothing runs yet."""
        self.explainers, self.limits = dict(explainers), limits
        self.jobs = Jobs(limits)
        answerers = {name: Answerer(name, one, limits.max_forwards) for name, one in self.explainers.items()}
        self._worker = Worker(self.jobs, answerers, batch_size)
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="vitscope-serve-reader")
        self.models = schemas.Models(models=[_describe(name, one) for name, one in self.explainers.items()])
        self.stopped = True

    @asynccontextmanager
    async def running(self, app: FastAPI) -> AsyncIterator[None]:
        """From the start to the end of the application."""
        self._worker.start()
        try:
            yield
        finally:
            self.jobs.close()
            self._readers.shutdown(wait=False, cancel_futures=True)
            self.stopped = await run_in_threadpool(self._worker.join, PATIENCE)

    async def submit(self, request: Request) -> Job:
        """Read a request's form, check it, and put it into the queue."""
        kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != "multipart/form-data":
            raise RefusedError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "send a form, as multipart/form-data")
        limits = self.limits
        try:
            with self.jobs.place() as submit:
                files = 2 * (limits.pictures + limits.concept_pictures)
                async with request.form(
                    max_files=files, max_fields=len(FILES + TEXTS) + files, max_part_size=FIELD_BYTES
                ) as data:
                    form = read_form(data, self.explainers, limits)
                    explainer = self.explainers[form.model]
                    loop = asyncio.get_running_loop()
                    order = await loop.run_in_executor(self._readers, order_of, form, explainer, limits)
                return submit(order)
        except FormParserError:  # which older versions of the framework let through
            raise RefusedError(HTTPStatus.BAD_REQUEST, "Invalid multipart data.") from None
        except FullError:
            raise RefusedError(
                HTTPStatus.TOO_MANY_REQUESTS,
                f"{limits.jobs_waiting} jobs wait already; ask again later",
                {"Retry-After": str(RETRY)},
            ) from None
        except ClosedError:
            raise _stopping() from None

    async def wait_for(self, request: Request, job: Job) -> None:
        """Wait until a job has ended, and end it where its client goes away."""
        finished = asyncio.wrap_future(job.finished)
        while not (await asyncio.wait({finished}, timeout=LOOK))[0]:
            self.jobs.tidy()
            if await request.is_disconnected():
                self.jobs.drop(job.id)
                raise ClientDisconnect

    def look(self, key: str) -> Snapshot:
        """A job as it stands."""
        try:
            return self.jobs.look(key)
        except (UnknownError, GoneError) as error:
            raise _missing(error) from None

    def cancel(self, key: str) -> Snapshot:
        """End a job, or forget it."""
        try:
            return self.jobs.cancel(key)
        except (UnknownError, GoneError) as error:
            raise _missing(error) from None


def _missing(error: UnknownError | GoneError) -> RefusedError:
    if isinstance(error, GoneError):
        return RefusedError(HTTPStatus.GONE, "the job is no longer kept; send the pictures again")
    return RefusedError(HTTPStatus.NOT_FOUND, "there is no such job")


def _stopping() -> RefusedError:
    return RefusedError(HTTPStatus.SERVICE_UNAVAILABLE, "the server is stopping")


def _describe(name: str, explainer: Explainer) -> schemas.ModelInfo:
    """A model as `GET /api/models` tells of it."""
    anatomy = explainer.anatomy
    kept = schemas.MethodInfo.model_fields.keys()
    defined = [
        facts
        for facts in list_methods()
        if not any(explainer.why_not(label, method) for label, method in as_methods(facts.name).items())
    ]
    return schemas.ModelInfo(
        name=name,
        classes=[explainer.names[index] for index in range(anatomy.outputs)],
        texts=anatomy.texts is not None,
        input_size=list(explainer.preprocessing.size),
        methods=[schemas.MethodInfo(**{key: getattr(facts, key) for key in kept}) for facts in defined],
        default_methods=default_methods(explainer),
    )

"""The queue and the results: every job's state, bounded in number, time and memory, for any number of threads."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter, OrderedDict, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from vitscope.serve.job import (
    ClosedError,
    FullError,
    GoneError,
    Job,
    Progress,
    Snapshot,
    State,
    StoppedError,
    UnknownError,
)
from vitscope.serve.limits import Limits
from vitscope.serve.orders import Order

REMEMBERED = 1024
"""Ids of jobs that are no longer kept, to tell what is gone from what never was."""

IDLE = 15.0
"""Seconds after which an idle worker looks for results that have grown too old."""


class Jobs:
    """All jobs of a server."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        """Empty.

        Args:
            limits: of jobs and results.
            clock: in seconds.
        """
        self._limits, self._clock = limits, clock
        self._changed = threading.Condition()
        self._reading = 0
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []
        self._kept: OrderedDict[str, Job] = OrderedDict()  # ended jobs, the oldest first
        self._gone: OrderedDict[str, None] = OrderedDict()
        self._closed = False
        self.counted: Counter[str] = Counter()
        self.passes: Counter[int] = Counter()

    @contextmanager
    def place(self) -> Iterator[Callable[[Order], Job]]:
        """A place in the queue, held while a request's pictures are read; what is given submits the order.

        Raises:
            FullError: there is none.
            ClosedError: the server is stopping.
        """
        with self._changed:
            self._tidy()
            self._check_open()
            if self._reading + len(self._waiting) >= self._limits.jobs_waiting:
                raise FullError
            self._reading += 1
        held = True

        def submit(order: Order) -> Job:
            nonlocal held
            with self._changed:
                self._check_open()
                self._reading -= 1
                held = False
                deadline = self._clock() + self._limits.job_seconds
                job = Job(secrets.token_urlsafe(18), order.model, len(order), order, deadline)
                self._waiting.append(job)
                self._changed.notify_all()
                return job

        try:
            yield submit
        finally:
            if held:
                with self._changed:
                    self._reading -= 1

    def look(self, key: str) -> Snapshot:
        """A job as it stands.

        Raises:
            UnknownError, GoneError: it is not kept.
        """
        with self._changed:
            self._tidy()
            return self._snapshot(self._find(key))

    def cancel(self, key: str) -> Snapshot:
        """End a job that has not ended, and forget one that has.

        Raises:
            UnknownError, GoneError: it is not kept.
        """
        with self._changed:
            self._tidy()
            job = self._find(key)
            if job.state.final:
                seen = self._snapshot(job)
                self._forget(job)
                return seen
            self._end(job, State.CANCELLED, error="the job was cancelled")
            return self._snapshot(job)

    def drop(self, key: str) -> None:
        """End a job and keep nothing of it; nothing happens where it is not kept."""
        with self._changed:
            try:
                job = self._find(key)
            except (UnknownError, GoneError):
                return
            if not job.state.final:
                self._end(job, State.CANCELLED, error="the job was cancelled")
            self._forget(job)

    def tidy(self) -> None:
        """Let jobs run out of time, and results grow too old."""
        with self._changed:
            self._tidy()

    def take(self, most: int) -> list[tuple[Job, Order]]:
        """The oldest job that waits, now running, and those behind it that one pass can answer with it.

        Args:
            most: pictures in all, unless the oldest alone has more.

        Returns:
            The jobs with their orders, once there is one; none when the server is stopping.
        """
        with self._changed:
            self._running = []
            while not self._closed:
                self._tidy()
                if self._waiting:
                    return self._together(most)
                self._changed.wait(IDLE)
            return []

    def report(self, jobs: Sequence[Job], progress: Progress | None = None) -> None:
        """Say how far jobs that run together are.

        Raises:
            StoppedError: none of them is waited for any more.
        """
        with self._changed:
            self._tidy()
            if self._closed or all(job.state.final for job in jobs):
                raise StoppedError
            for job in jobs:
                job.progress = None if job.state.final else progress

    def done(self, job: Job, result: bytes) -> None:
        """Give a job its result, unless it has ended otherwise."""
        with self._changed:
            self._tidy()
            if not job.state.final:
                job.result = result
                self._end(job, State.DONE)

    def failed(self, job: Job, error: str, fault: bool = False) -> None:
        """Say why there is none, unless it has ended otherwise."""
        with self._changed:
            if not job.state.final:
                job.fault = fault
                self._end(job, State.FAILED, error=" ".join(error.split()))

    def close(self) -> None:
        """End all jobs, and take no more."""
        with self._changed:
            self._closed = True
            for job in [*self._waiting, *self._running]:
                if not job.state.final:
                    self._end(job, State.CANCELLED, error="the server is stopping")
            self._changed.notify_all()

    def standing(self) -> dict[str, int]:
        """How many jobs wait, run and are kept."""
        with self._changed:
            self._tidy()
            running = sum(not job.state.final for job in self._running)
            return {"waiting": len(self._waiting) + self._reading, "running": running, "kept": len(self._kept)}

    def _together(self, most: int) -> list[tuple[Job, Order]]:
        taken: list[tuple[Job, Order]] = []
        pictures, kind = 0, None
        for job in list(self._waiting):
            assert job.order is not None
            if not taken or (kind is not None and job.order.kind == kind and pictures + job.pictures <= most):
                kind = job.order.kind
                taken.append((job, job.order))
                pictures += job.pictures
        self._running = [job for job, _ in taken]
        for job in self._running:
            self._waiting.remove(job)
            job.state = State.RUNNING
        self.passes[pictures] += 1
        return taken

    def _tidy(self) -> None:
        now = self._clock()
        for job in [*self._waiting, *self._running]:
            if not job.state.final and now >= job.deadline:
                self._end(
                    job, State.EXPIRED, error=f"the job took longer than {self._limits.job_seconds:g} seconds; ask less"
                )
        while self._kept:
            oldest = next(iter(self._kept.values()))
            held = sum(len(job.result or b"") for job in self._kept.values())
            old = now - oldest.ended >= self._limits.result_seconds
            many = len(self._kept) > self._limits.results_kept
            large = held > self._limits.results_bytes and len(self._kept) > 1
            if not (old or many or large):
                return
            self._forget(oldest)

    def _end(self, job: Job, state: State, error: str = "") -> None:
        if job.state is State.WAITING:
            self._waiting.remove(job)
        job.state, job.error, job.ended, job.order, job.progress = state, error, self._clock(), None, None
        self._kept[job.id] = job
        self.counted[state.value] += 1
        job.finished.set_result(None)

    def _forget(self, job: Job) -> None:
        del self._kept[job.id]
        self._gone[job.id] = None
        while len(self._gone) > REMEMBERED:
            self._gone.popitem(last=False)

    def _find(self, key: str) -> Job:
        if key in self._gone:
            raise GoneError
        for job in (*self._waiting, *self._running):
            if job.id == key:
                return job
        if key not in self._kept:
            raise UnknownError
        return self._kept[key]

    def _snapshot(self, job: Job) -> Snapshot:
        ahead = self._waiting.index(job) if job.state is State.WAITING else 0
        return Snapshot(
            job.id, job.model, job.pictures, job.state, ahead, job.progress, job.error, job.fault, job.result
        )

    def _check_open(self) -> None:
        if self._closed:
            raise ClosedError

"""The thread that answers jobs: one for all models.

Methods may draw from torch's own random numbers, which all threads of a process share, and so no two explanations are
ever under way at the same time.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Mapping, Sequence

from vitscope.errors import VitscopeError
from vitscope.serve.answers import Answerer
from vitscope.serve.job import Job, Progress, StoppedError
from vitscope.serve.jobs import Jobs
from vitscope.serve.orders import Order

_log = logging.getLogger(__name__)

FAULT = "the server failed on this job; its log says more"


class Worker:
    """Takes jobs until they are closed."""

    def __init__(self, jobs: Jobs, answerers: Mapping[str, Answerer], at_once: int) -> None:
        """Not started yet.

        Args:
            jobs: where it takes them from.
            answerers: by the models' names.
            at_once: pictures in one pass.
        """
        self._jobs, self._answerers, self._at_once = jobs, answerers, at_once
        self._thread = threading.Thread(target=self._run, name="vitscope-serve", daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def join(self, seconds: float) -> bool:
        """Wait for the end of the pass that is under way, at most so long; whether it has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def _run(self) -> None:
        while self._once():
            pass

    def _once(self) -> bool:
        """Answer what can be answered together; False where there is no more. Nothing of it is held afterwards."""
        taken = self._jobs.take(self._at_once)
        if not taken:
            return False
        jobs, orders = zip(*taken, strict=True)
        try:
            self._answer(jobs, orders)
        except StoppedError:
            pass  # the jobs have ended already
        except Exception:
            _log.exception("a pass failed")
            for job in jobs:
                self._jobs.failed(job, FAULT, fault=True)
        return True

    def _answer(self, jobs: Sequence[Job], orders: Sequence[Order]) -> None:
        def progress(label: str, done: int, total: int) -> None:
            self._jobs.report(jobs, Progress(label, done, total))

        def go_on() -> None:
            self._jobs.report(jobs)

        answerer = self._answerers[orders[0].model]
        for job, answer in zip(jobs, answerer.answers(orders, progress, go_on), strict=True):
            if isinstance(answer, bytes):
                self._jobs.done(job, answer)
            elif isinstance(answer, VitscopeError):
                self._jobs.failed(job, str(answer))
            else:
                _log.error("a job failed", exc_info=answer)
                self._jobs.failed(job, FAULT, fault=True)

"""A job: its states, what is told of it, and how it can be missing."""

from __future__ import annotations

from concurrent.futures import Future
from dataclasses import dataclass, field
from enum import StrEnum

from vitscope.serve.orders import Order


class State(StrEnum):
    """Of a job."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"

    @property
    def final(self) -> bool:
        """Whether nothing follows."""
        return self not in (State.WAITING, State.RUNNING)


class FullError(Exception):
    """As many jobs wait as may."""


class ClosedError(Exception):
    """The server is stopping."""


class UnknownError(Exception):
    """There is no such job, and none is remembered."""


class GoneError(Exception):
    """The job was there, and is not kept any more."""


class StoppedError(Exception):
    """Raised into an explanation that nobody waits for any more."""


@dataclass(frozen=True)
class Progress:
    """Of a method that runs the model on altered pictures: its label, forwards done, and of how many."""

    method: str
    done: int
    total: int


@dataclass(eq=False)
class Job:
    """One job; changed by `Jobs` alone, under its lock.

    Attributes:
        id: a secret of whoever sent it.
        model: which answers it.
        pictures: how many.
        order: until the job has ended.
        deadline: on the clock of `Jobs`.
        state: see `State`.
        progress: while it runs, where a method tells.
        result: JSON, of a job that is done.
        error: one line, of a job that is neither waiting, running nor done.
        fault: whether the failure is the server's own.
        ended: on the clock, when it came to its last state.
        finished: is done when the job comes to its last state.
    """

    id: str
    model: str
    pictures: int
    order: Order | None
    deadline: float
    state: State = State.WAITING
    progress: Progress | None = None
    result: bytes | None = None
    error: str = ""
    fault: bool = False
    ended: float = 0.0
    finished: Future[None] = field(default_factory=Future)


@dataclass(frozen=True)
class Snapshot:
    """A job at one moment: what `Job` says, and how many wait before it."""

    id: str
    model: str
    pictures: int
    state: State
    ahead: int
    progress: Progress | None
    error: str
    fault: bool
    result: bytes | None

"""Connections that take their time: a head that does not end, an answer that nobody reads, too many at once."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol


class Connection(H11Protocol):
    """uvicorn's HTTP/1.1, whose clients do not keep a connection for nothing.

    uvicorn waits for a head as long as a client likes, also for the first byte of one, and as long for a client that
    does not read; the bodies' own time is `BoundedBody`'s.

    Attributes:
        head_seconds: for a request's head, from the connection's beginning or the head's first byte on.
        answer_seconds: for a client to take up what waits for it.
        most: connections at the same time; one more is closed unanswered. (Of fewer, uvicorn's `limit_concurrency`
            answers 503.)
    """

    head_seconds = 10.0
    answer_seconds = 60.0
    most = 512

    def __init__(self, *settings: Any, **named: Any) -> None:
        super().__init__(*settings, **named)
        self._head: asyncio.TimerHandle | None = None
        self._answer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """One more."""
        super().connection_made(transport)
        if len(self.connections) > self.most:
            transport.abort()
            return
        self._head = self._in(self.head_seconds)

    def data_received(self, data: bytes) -> None:
        """Some bytes; where they end a head, its time is over."""
        super().data_received(data)
        if self.cycle is not None and not self.cycle.response_complete:
            self._stop_head()
        elif self._head is None:
            self._head = self._in(self.head_seconds)

    def on_response_complete(self) -> None:
        """Between two requests, uvicorn's own time for idle connections runs."""
        self._stop_head()
        super().on_response_complete()

    def pause_writing(self) -> None:
        """The client reads slower than is written."""
        super().pause_writing()
        if self._answer is None:
            self._answer = self._in(self.answer_seconds)

    def resume_writing(self) -> None:
        """It has caught up."""
        super().resume_writing()
        self._stop_answer()

    def connection_lost(self, exc: Exception | None) -> None:
        """It is gone."""
        self._stop_head()
        self._stop_answer()
        super().connection_lost(exc)

    def _in(self, seconds: float) -> asyncio.TimerHandle:
        return self.loop.call_later(seconds, self.transport.abort)

    def _stop_head(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None

    def _stop_answer(self) -> None:
        if self._answer is not None:
            self._answer.cancel()
            self._answer = None

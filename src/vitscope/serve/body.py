"""The body of a request, bounded in size and time while it arrives: what is too large is never held."""

from __future__ import annotations

import asyncio
from http import HTTPStatus

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from vitscope.serve.errors import RefusedError, refusal


class BoundedBody:
    """ASGI middleware: 413 for a body of too many bytes, announced or counted, 408 for one that takes too long.

    What a refused client still sends is thrown away by the server below, so that the client comes to read the answer.
    """

    def __init__(self, app: ASGIApp, most: int, seconds: float) -> None:
        """In front of `app`: at most so many bytes in so many seconds."""
        self._app, self._most, self._seconds = app, most, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        announced = Headers(scope=scope).get("content-length", "")
        if announced.isdecimal() and int(announced[:20]) > self._most:
            await refusal(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._too_large())(scope, receive, send)
            return
        until = asyncio.get_running_loop().time() + self._seconds
        count, whole = 0, False

        async def bounded() -> Message:
            nonlocal count, whole
            if whole:  # what is awaited then is the client's going away, which may take its time
                return await receive()
            try:
                async with asyncio.timeout_at(until):
                    message = await receive()
            except TimeoutError:
                whole = True
                raise RefusedError(HTTPStatus.REQUEST_TIMEOUT, self._too_slow(), {"Connection": "close"}) from None
            count += len(message.get("body", b""))
            whole = not message.get("more_body", False)
            if count > self._most:
                whole = True
                raise RefusedError(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, self._too_large())
            return message

        await self._app(scope, bounded, send)

    def _too_large(self) -> str:
        return f"the request is larger than {self._most / 2**20:g} MiB; send fewer or smaller pictures"

    def _too_slow(self) -> str:
        return f"the request did not arrive within {self._seconds:g} seconds; send fewer or smaller pictures"
